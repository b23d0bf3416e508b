// Command differ unpacks layers as containerd does, so that layerd can be held to it. It reads one
// order a line from standard input, as JSON, and answers each with one line:
//
//	{"blob": FILE, "layer": DIRECTORY, "lowers": [DIRECTORY, nearest first], "overlay": BOOL}
//	{"diff_id": "sha256:...", "size": BYTES, "error": TEXT}
//
// With "overlay" the layer is treated as containerd's differ treats the upper directory of an
// overlay mount into which it writes directly, and without as the mount point of a bind mount.
package main

import (
	"context"
	_ "crypto/sha256" // go-digest takes what is linked
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/containerd/archive"
	"github.com/containerd/containerd/archive/compression"
	digest "github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"
)

type order struct {
	Blob    string   `json:"blob"`
	Layer   string   `json:"layer"`
	Lowers  []string `json:"lowers"`
	Overlay bool     `json:"overlay"`
}

type answer struct {
	DiffID string `json:"diff_id"`
	Size   int64  `json:"size"`
	Error  string `json:"error"`
}

func main() {
	logrus.SetLevel(logrus.ErrorLevel)
	if err := serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "differ:", err)
		os.Exit(1)
	}
}

func serve(in io.Reader, out io.Writer) error {
	orders, answers := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var next order
		if err := orders.Decode(&next); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		reply, err := apply(context.Background(), next)
		if err != nil {
			reply = answer{Error: err.Error()}
		}
		if err := answers.Encode(reply); err != nil {
			return err
		}
	}
}

// counter counts what passes.
type counter struct {
	io.Reader
	count int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.count += int64(n)
	return n, err
}

func apply(ctx context.Context, next order) (answer, error) {
	blob, err := os.Open(next.Blob)
	if err != nil {
		return answer{}, err
	}
	defer blob.Close()
	plain, err := compression.DecompressStream(blob)
	if err != nil {
		return answer{}, err
	}
	defer plain.Close()
	digester := digest.Canonical.Digester()
	stream := &counter{Reader: io.TeeReader(plain, digester.Hash())}
	if _, err := archive.Apply(ctx, next.Layer, stream, options(next)...); err != nil {
		return answer{}, err
	}
	// What follows the archive belongs to the layer's digest.
	if _, err := io.Copy(io.Discard, stream); err != nil {
		return answer{}, err
	}
	return answer{DiffID: digester.Digest().String(), Size: stream.count}, nil
}

func options(next order) []archive.ApplyOpt {
	if !next.Overlay {
		return nil
	}
	chosen := []archive.ApplyOpt{archive.WithConvertWhiteout(archive.OverlayConvertWhiteout)}
	if len(next.Lowers) > 0 {
		chosen = append(chosen, archive.WithParents(next.Lowers))
	}
	return chosen
}
