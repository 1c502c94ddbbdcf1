//go:build linux

package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/log"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/logfile"
)

// containerLog copies a container's two streams to one file. The runc library
// writes the streams to what it takes for FIFOs: pipes of this very process,
// by their path below /proc, so that nothing on disk and no other process is
// in between.
type containerLog struct {
	file    *logfile.Writer
	out     [2]*os.File // our copies of the writing ends, until handed over
	in      [2]*os.File
	drained chan struct{}
	closing sync.Once
}

func openLog(path string) (*containerLog, error) {
	file, err := logfile.Open(path)
	if err != nil {
		return nil, err
	}
	l := &containerLog{file: file, drained: make(chan struct{})}
	for i := range l.out {
		if l.in[i], l.out[i], err = os.Pipe(); err != nil {
			l.handOver()
			l.closeReaders()
			return nil, err
		}
	}
	var copies sync.WaitGroup
	for i, stream := range []string{logfile.Stdout, logfile.Stderr} {
		copies.Go(func() {
			if err := file.Copy(stream, l.in[i]); err != nil {
				log.L.WithError(err).WithField("log", path).Warn("copy " + stream)
			}
		})
	}
	go func() {
		copies.Wait()
		l.closeReaders()
		if err := file.Close(); err != nil {
			log.L.WithError(err).Warn("close log")
		}
		close(l.drained)
	}()
	return l, nil
}

// paths are where the streams are written to.
func (l *containerLog) paths() (stdout, stderr string) {
	path := func(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }
	return path(l.out[0]), path(l.out[1])
}

// handOver drops our writing ends once the library has opened its own, so that
// the streams end with the container.
func (l *containerLog) handOver() {
	for _, f := range l.out {
		if f != nil {
			f.Close()
		}
	}
}

func (l *containerLog) closeReaders() {
	for _, f := range l.in {
		if f != nil {
			f.Close()
		}
	}
}

// drain waits for the last lines.
func (l *containerLog) drain(atMost time.Duration) {
	select {
	case <-l.drained:
	case <-time.After(atMost):
	}
}

// close ends the copying of a container that is gone, whoever holds its pipes.
func (l *containerLog) close() {
	l.closing.Do(func() {
		go func() {
			l.drain(patience)
			l.closeReaders()
		}()
	})
}
