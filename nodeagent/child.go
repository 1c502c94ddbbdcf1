//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	stopWait     = 10 * time.Second // between SIGTERM and SIGKILL
	firstRestart = 100 * time.Millisecond
	mostRestart  = 10 * time.Second
	goodRun      = 10 * time.Second // a child that ran this long is started again at once
)

// child is this program started again as one of its parts.
type child struct {
	name  string
	args  []string
	stdin []byte
	files []*os.File // the child's from descriptor 3 on
	log   hclog.Logger
}

// Run keeps the child going until ctx ends, then stops it.
func (c *child) Run(ctx context.Context) error {
	wait := firstRestart
	for {
		began := time.Now()
		err := c.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > goodRun {
			wait = firstRestart
		}
		c.log.Error("a part ended; starting it again", "part", c.name, "error", err, "retry_in", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, mostRestart)
	}
}

// once starts the child and waits until it ends.
func (c *child) once(ctx context.Context) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(exe, c.args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(c.stdin), os.Stderr, os.Stderr
	cmd.ExtraFiles = c.files
	cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, envToken+"=") }) // only the one that joins needs it
	// The kernel kills the child when the thread that started it ends: the
	// thread has to live as long as this program.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	c.log.Debug("part started", "part", c.name, "pid", cmd.Process.Pid)
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if err == nil {
			err = errors.New("exit status 0")
		}
		return err
	case <-ctx.Done():
	}
	_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended just now
	select {
	case err = <-done:
	case <-time.After(stopWait):
		c.log.Warn("a part did not stop in time; killing it", "part", c.name)
		_ = cmd.Process.Kill()
		err = <-done
	}
	return err
}
