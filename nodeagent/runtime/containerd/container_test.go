//go:build linux

package containerd

import (
	"errors"
	"syscall"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

func TestStartErrorSaysWhatAUserCanRead(t *testing.T) {
	const runc = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
	for text, want := range map[string]string{
		runc + `error during container init: exec: "/nope": stat /nope: no such file or directory: unknown`: `cannot start: exec: "/nope": stat /nope: no such file or directory`,
		runc + `exec: "nope": executable file not found in $PATH: unknown`:                                  `cannot start: exec: "nope": executable file not found in $PATH`,
		runc + "container init was OOM-killed (memory limit too low?): unknown":                             "cannot start: container init was OOM-killed (memory limit too low?)",
		"failed to create shim task: ttrpc: closed":                                                         "failed to create shim task: ttrpc: closed",
	} {
		got := startError(errors.New(text))
		if got.Error() != want || errors.Is(got, runtime.ErrCannotStart) != (want != text) {
			t.Errorf("got %v", got)
		}
	}
}

func TestSignalNumber(t *testing.T) {
	for name, want := range map[string]syscall.Signal{
		"SIGTERM": syscall.SIGTERM, "TERM": syscall.SIGTERM, "sigquit": syscall.SIGQUIT, "9": syscall.SIGKILL,
		"SIGRTMIN+3": 37, "SIGRTMIN": 34,
	} {
		if got, err := signalNumber(name); err != nil || got != want {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
	for _, name := range []string{"", "SIGNONE", "0", "SIGRTMIN+99", "-1"} {
		if got, err := signalNumber(name); err == nil {
			t.Errorf("%q is %v", name, got)
		}
	}
}
