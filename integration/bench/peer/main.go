// Command overlayfs serves containerd's own overlayfs snapshotter on a socket, so that it can be
// measured as layerd is: overlayfs ROOT SOCKET. Without a socket, overlayfs ROOT, it makes the calls
// itself that standard input orders, as containerd does with the snapshotter that is built in.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/contrib/snapshotservice"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/overlay"
	"google.golang.org/grpc"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "overlayfs:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 && len(args) != 2 {
		return errors.New("usage: overlayfs ROOT [SOCKET]")
	}
	root := args[0]
	// As containerd has it: removed layers are deleted by its collector, not in Remove.
	backend, err := overlay.NewSnapshotter(root, overlay.AsynchronousRemove)
	if err != nil {
		return fmt.Errorf("open %s: %w", root, err)
	}
	defer backend.Close()
	if len(args) == 1 {
		return drive(backend, os.Stdin, os.Stdout)
	}
	return serve(backend, args[1])
}

func serve(backend snapshots.Snapshotter, socket string) error {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(backend))
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-stop
		server.GracefulStop()
	}()
	return server.Serve(listener)
}
