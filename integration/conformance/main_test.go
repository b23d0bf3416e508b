// Package conformance runs containerd's own snapshotter suite through a snapshotter's socket.
//
// Each test of the suite gets a daemon of its own on a fresh root, because several tests use the
// same keys. The suite of containerd 1.6 skips its own Rename test, whatever the snapshotter.
package conformance

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/contrib/snapshotservice"
	"github.com/containerd/containerd/log"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/overlay"
	"github.com/containerd/containerd/snapshots/proxy"
	"github.com/containerd/containerd/snapshots/testsuite"
	"google.golang.org/grpc"
)

const (
	snapshotter  = "overlayfs"
	startTimeout = 30 * time.Second
	stopTimeout  = 30 * time.Second
)

var (
	daemon    = flag.String("daemon", "", "path of the layerd binary")
	driver    = flag.String("driver", "overlay", "storage driver of layerd")
	reference = flag.Bool("reference", false, "test containerd's own overlayfs behind the same proxy, to check this harness")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "the suite mounts: run it as root")
		os.Exit(1)
	}
	if *reference == (*daemon != "") {
		fmt.Fprintln(os.Stderr, "give either -daemon PATH or -reference")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestSnapshotter(t *testing.T) {
	start := startDaemon
	if *reference {
		start = startReference
	}
	testsuite.SnapshotterSuite(t, snapshotter, func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		socket := filepath.Join(filepath.Dir(root), "s.sock")
		stop, err := start(ctx, root, socket)
		if err != nil {
			return nil, nil, err
		}
		conn, err := dial(socket)
		if err != nil {
			return nil, nil, join(err, stop())
		}
		return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), snapshotter), func() error {
			return join(conn.Close(), stop())
		}, nil
	})
}

// dial connects as containerd does: over the unix socket, with its limits on message sizes.
func dial(socket string) (*grpc.ClientConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := grpc.DialContext(ctx, "unix://"+socket,
		grpc.WithInsecure(),
		grpc.WithBlock(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20), grpc.MaxCallSendMsgSize(16<<20)))
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", socket, err)
	}
	return conn, nil
}

// startDaemon starts layerd on root and waits until its socket takes connections.
func startDaemon(ctx context.Context, root, socket string) (func() error, error) {
	path := socket + ".log"
	output, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer output.Close()
	cmd := exec.Command(*daemon, "--root", root, "--driver", *driver, "--socket", socket)
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", *daemon, err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	stop := func() error {
		defer forward(ctx, path)
		return terminate(cmd.Process, exited)
	}
	if err := awaitSocket(socket, exited); err != nil {
		return nil, join(err, stop())
	}
	return stop, nil
}

func awaitSocket(socket string, exited chan error) error {
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); {
		if conn, err := net.Dial("unix", socket); err == nil {
			return conn.Close()
		}
		select {
		case err := <-exited:
			exited <- err
			return fmt.Errorf("layerd ended before it served: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return fmt.Errorf("layerd did not serve %s within %s", socket, startTimeout)
}

// terminate asks the daemon to stop and reports anything but a clean end within the time limit.
func terminate(process *os.Process, exited chan error) error {
	if err := process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case err := <-exited:
		if err != nil {
			return fmt.Errorf("layerd ended with %w", err)
		}
		return nil
	case <-time.After(stopTimeout):
		return join(fmt.Errorf("layerd did not stop within %s", stopTimeout), process.Kill())
	}
}

// forward copies the daemon's log into the log of the test that it belongs to.
func forward(ctx context.Context, path string) {
	file, err := os.Open(path)
	if err != nil {
		log.G(ctx).WithError(err).Error("open the daemon's log")
		return
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		log.G(ctx).Info("layerd: " + lines.Text())
	}
}

// startReference serves containerd's overlayfs snapshotter from this process.
func startReference(_ context.Context, root, socket string) (func() error, error) {
	backend, err := overlay.NewSnapshotter(root)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, join(err, backend.Close())
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(backend))
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	return func() error {
		server.Stop()
		return join(<-served, backend.Close())
	}, nil
}

// join returns the first error that is not nil, with the second's text where both are set.
func join(first, second error) error {
	if first != nil && second != nil {
		return fmt.Errorf("%w; then: %v", first, second)
	}
	if first != nil {
		return first
	}
	return second
}
