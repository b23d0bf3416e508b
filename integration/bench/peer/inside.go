package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/snapshots"
)

// A line of orders: make CALLS calls of one kind, CLIENTS at a time, on the MADE snapshots of a run.
type order struct {
	word    string
	base    string
	clients int
	calls   int
	made    int
}

// drive runs the orders that it reads, "WORD BASE CLIENTS CALLS MADE", each to its end, and answers
// each with a line: what all of it took and what each call took, in nanoseconds. The word "base"
// makes a parent of CALLS layers instead. The names are those of the bench's load.rs.
func drive(backend snapshots.Snapshotter, orders io.Reader, answers io.Writer) error {
	lines := bufio.NewScanner(orders)
	for lines.Scan() {
		order, err := parse(lines.Text())
		if err != nil {
			return err
		}
		took, err := order.run(backend)
		if err != nil {
			return fmt.Errorf("%s: %w", lines.Text(), err)
		}
		if _, err := fmt.Fprintln(answers, strings.Join(took, " ")); err != nil {
			return err
		}
	}
	return lines.Err()
}

func parse(line string) (order, error) {
	fields := strings.Split(line, " ")
	if len(fields) != 5 {
		return order{}, fmt.Errorf("not an order: %q", line)
	}
	var numbers [3]int
	for i := range numbers {
		number, err := strconv.Atoi(fields[2+i])
		if err != nil {
			return order{}, fmt.Errorf("not an order: %q: %w", line, err)
		}
		numbers[i] = number
	}
	return order{fields[0], fields[1], numbers[0], numbers[1], numbers[2]}, nil
}

func (o order) run(backend snapshots.Snapshotter) ([]string, error) {
	if o.word == "base" {
		return nil, base(backend, o.calls)
	}
	each := make([]time.Duration, o.calls)
	errs := make([]error, o.clients)
	var next atomic.Int64
	var all sync.WaitGroup
	start := time.Now()
	for client := 0; client < o.clients; client++ {
		all.Add(1)
		go func(client int) {
			defer all.Done()
			errs[client] = o.client(backend, &next, each)
		}(client)
	}
	all.Wait()
	took := []string{strconv.FormatInt(time.Since(start).Nanoseconds(), 10)}
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	for _, one := range each {
		took = append(took, strconv.FormatInt(one.Nanoseconds(), 10))
	}
	return took, nil
}

func (o order) client(backend snapshots.Snapshotter, next *atomic.Int64, each []time.Duration) error {
	for {
		i := int(next.Add(1)) - 1
		if i >= o.calls {
			return nil
		}
		start := time.Now()
		if err := o.call(backend, i%o.made); err != nil {
			return fmt.Errorf("call %d: %w", i, err)
		}
		each[i] = time.Since(start)
	}
}

func (o order) call(backend snapshots.Snapshotter, i int) error {
	ctx := context.Background()
	active, committed, life := fmt.Sprint("a-", i), fmt.Sprint("c-", i), fmt.Sprint("l-", i)
	var err error
	switch o.word {
	case "prepare":
		_, err = backend.Prepare(ctx, active, o.base)
	case "mounts":
		_, err = backend.Mounts(ctx, active)
	case "stat":
		_, err = backend.Stat(ctx, active)
	case "usage":
		_, err = backend.Usage(ctx, active)
	case "list":
		err = walk(ctx, backend)
	case "list-name":
		err = walk(ctx, backend, "name=="+active)
	case "list-parent":
		err = walk(ctx, backend, "parent==base-0")
	case "commit":
		err = backend.Commit(ctx, committed, active)
	case "remove":
		err = backend.Remove(ctx, committed)
	case "life":
		if _, err = backend.Prepare(ctx, life, o.base); err != nil {
			return err
		}
		if _, err = backend.Mounts(ctx, life); err != nil {
			return err
		}
		err = backend.Remove(ctx, life)
	default:
		err = fmt.Errorf("unknown: %s", o.word)
	}
	return err
}

func walk(ctx context.Context, backend snapshots.Snapshotter, filters ...string) error {
	seen := func(context.Context, snapshots.Info) error { return nil }
	return backend.Walk(ctx, seen, filters...)
}

func base(backend snapshots.Snapshotter, height int) error {
	ctx := context.Background()
	parent := ""
	for layer := 0; layer < height; layer++ {
		key, name := fmt.Sprint("base-active-", layer), fmt.Sprint("base-", layer)
		if _, err := backend.Prepare(ctx, key, parent); err != nil {
			return err
		}
		if err := backend.Commit(ctx, name, key); err != nil {
			return err
		}
		parent = name
	}
	return nil
}
