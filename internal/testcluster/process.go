package testcluster

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/server"
	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
	"github.com/clusterd/terraform-provider-clusterd/internal/etcdtest"
)

// Process is a part of the cluster that can be stopped and started again.
type Process struct {
	name  string
	start func(ctx context.Context) (running, error)
	t     testing.TB

	// Level is what a server knows with the next start; 0: what this build does.
	Level int

	running
	cancel context.CancelFunc
	done   chan error
}

// running is a started process.
type running struct {
	run   func(context.Context) error
	ready <-chan struct{} // nil: at once
	kill  func()          // nil: cancelling is as sudden as it gets
	pause func(bool)      // nil: it cannot be
}

// Start starts p, which must not run, and waits until it is ready.
func (p *Process) Start() {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	if p.running, err = p.start(ctx); err != nil {
		cancel()
		p.t.Fatalf("start %s: %v", p.name, err)
	}
	p.cancel, p.done = cancel, make(chan error, 1)
	go func() { p.done <- p.run(ctx) }()
	if p.ready == nil {
		return
	}
	select {
	case <-p.ready:
	case err := <-p.done:
		p.cancel = nil
		p.t.Fatalf("%s ended at its start: %v", p.name, err)
	case <-time.After(time.Minute):
		p.t.Fatalf("%s does not become ready", p.name)
	}
}

// Stop asks p to end and waits until it has. A stopped process stays so.
func (p *Process) Stop() {
	p.t.Helper()
	if p.cancel == nil {
		return
	}
	p.cancel()
	if err := p.wait(); err != nil {
		p.t.Errorf("%s ended with: %v", p.name, err)
	}
}

// Ended reports whether a process that was started has ended by itself.
func (p *Process) Ended() bool {
	if p.cancel == nil {
		return false
	}
	select {
	case err := <-p.done:
		p.t.Logf("%s ended: %v", p.name, err)
		p.cancel()
		p.cancel = nil
		return true
	default:
		return false
	}
}

// Pause stops p in the middle of whatever it does, until Resume.
func (p *Process) Pause() { p.pause(true) }

// Resume lets a paused process go on, as if no time had passed.
func (p *Process) Resume() { p.pause(false) }

// Kill ends p as if its power was cut.
func (p *Process) Kill() {
	p.t.Helper()
	if p.cancel == nil {
		return
	}
	if p.kill != nil {
		p.kill()
	}
	p.cancel()
	p.wait()
}

func (p *Process) wait() error {
	p.t.Helper()
	p.cancel = nil
	select {
	case err := <-p.done:
		return err
	case <-time.After(time.Minute):
		p.t.Fatalf("%s does not end", p.name)
		return nil
	}
}

// separateEnv has the config of the server that a test binary is to be.
const separateEnv = "CLUSTERD_TESTCLUSTER_SERVER"

// Main is the TestMain of packages that use Config.Separate.
func Main(m *testing.M) {
	etcdtest.Serve()
	conf := os.Getenv(separateEnv)
	if conf == "" {
		os.Exit(m.Run())
	}
	if err := serve(conf); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve is the separate server: it says on its output where it listens, once
// it is ready.
func serve(conf string) error {
	var cfg server.Config
	if err := json.Unmarshal([]byte(conf), &cfg); err != nil {
		return err
	}
	log, err := daemon.LogConfig{Level: "debug"}.New("server", os.Stderr)
	if err != nil {
		return err
	}
	cfg.Log, cfg.Registry = log, offers{}
	ctx, stop := daemon.Signals(context.Background())
	defer stop()
	s, err := server.Open(ctx, cfg)
	if err != nil {
		return err
	}
	return daemon.Run(ctx, s, daemon.Func(func(ctx context.Context) error {
		select {
		case <-s.Ready():
			fmt.Println(s.Addr(), s.GossipAddr())
		case <-ctx.Done():
		}
		return nil
	}))
}

func startSeparate(cfg server.Config, addr, gossip *string) (running, error) {
	conf, err := json.Marshal(cfg)
	if err != nil {
		return running{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return running{}, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), separateEnv+"="+string(conf))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // dies with the test
	if path := os.Getenv("CLUSTERD_TEST_LOG"); path != "" {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return running{}, err
		}
		defer f.Close()
		cmd.Stderr = f
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return running{}, err
	}
	if err := cmd.Start(); err != nil {
		return running{}, err
	}
	ready := make(chan struct{})
	go func() {
		line, _ := bufio.NewReader(out).ReadString('\n')
		if n, _ := fmt.Sscan(line, addr, gossip); n == 2 {
			close(ready)
		}
	}()
	return running{
		ready: ready,
		kill:  func() { cmd.Process.Kill() },
		pause: func(stop bool) {
			cmd.Process.Signal(map[bool]syscall.Signal{true: syscall.SIGSTOP, false: syscall.SIGCONT}[stop])
		},
		run: func(ctx context.Context) error {
			defer context.AfterFunc(ctx, func() { cmd.Process.Signal(syscall.SIGTERM) })()
			return cmd.Wait()
		},
	}, nil
}
