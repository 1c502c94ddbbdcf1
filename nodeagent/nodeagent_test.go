//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// TestMain lets the test program be nodeagent, with its parts, or a child that
// a test starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && slices.Contains([]string{"run", "agent", "containerd"}, os.Args[1]) {
		main()
		return
	}
	if len(os.Args) == 3 && os.Args[1] == "test-child" {
		os.Exit(beChild(os.Args[2]))
	}
	os.Exit(m.Run())
}

// beChild appends its settings to a file; the third time it stays.
func beChild(path string) int {
	in, err := io.ReadAll(os.Stdin)
	if err != nil {
		return 3
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 3
	}
	fmt.Fprintf(f, "%s\n", in)
	f.Close()
	if b, _ := os.ReadFile(path); bytes.Count(b, []byte("\n")) < 3 {
		return 1
	}
	time.Sleep(time.Minute)
	return 0
}

// A child that dies is started again, with its settings, and ends with its
// supervisor.
func TestChildIsKeptGoing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "starts")
	var out syncBuffer
	c := &child{name: "test", args: []string{"test-child", path}, stdin: []byte("settings"), log: hclog.New(&hclog.LoggerOptions{Output: &out})}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	for {
		b, _ := os.ReadFile(path)
		if string(b) == "settings\nsettings\nsettings\n" {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("started as %q", b)
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := out.String(); strings.Count(got, "a part ended; starting it again") != 2 || !strings.Contains(got, "exit status 1") {
		t.Errorf("logged %s", got)
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestOneSupervisorPerNode(t *testing.T) {
	s := &settings{RunDir: t.TempDir()}
	first, err := s.lock()
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(s.lockFile()); strings.TrimSpace(string(b)) != fmt.Sprint(os.Getpid()) {
		t.Errorf("the lock names %q", b)
	}
	if _, err := s.lock(); err == nil || !strings.Contains(err.Error(), "another nodeagent") {
		t.Errorf("got %v", err)
	}
	first.Close()
	again, err := s.lock()
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestLeaveFindsNobody(t *testing.T) {
	cmd := root()
	cmd.SetArgs([]string{"leave", "--run-dir", t.TempDir()})
	if err := cmd.Execute(); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no nodeagent runs") {
		t.Errorf("got %v", err)
	}
}

// Who asks a nodeagent to leave is told once it has ended.
func TestLeaveWaitsForTheEnd(t *testing.T) {
	s := &settings{RunDir: t.TempDir()}
	lock, err := s.lock()
	if err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.ends(soon); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while it runs: %v", err)
	}
	if pid, err := s.running(); pid != os.Getpid() {
		t.Errorf("while it runs: %d, %v", pid, err)
	}
	lock.Close()
	if pid, err := s.running(); err == nil { // its pid may be another's by now
		t.Errorf("after its end: %d", pid)
	}
	if err := s.ends(t.Context()); err != nil {
		t.Errorf("after its end: %v", err)
	}
}

func TestVersion(t *testing.T) {
	var out bytes.Buffer
	cmd := root()
	cmd.SetArgs([]string{"version"})
	cmd.SetOut(&out)
	if err := cmd.Execute(); err != nil || !strings.HasPrefix(out.String(), "nodeagent ") {
		t.Errorf("%s, %v", &out, err)
	}
}

func TestSettingsRefuse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: without it, that is all it says")
	}
	for want, s := range map[string]settings{
		"--name":               {Name: "Not A Name"},
		"--allocatable-cpu":    {Name: "w1", CPU: "lots", Memory: "90%"},
		"--allocatable-memory": {Name: "w1", CPU: "100%", Memory: "0%"},
	} {
		if err := s.complete(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	s := settings{Name: "w1", CPU: "100%", Memory: "90%", DataDir: "data", RunDir: "run"}
	if err := s.complete(); err != nil || s.Cgroup != "/clusterd/w1" || !filepath.IsAbs(s.DataDir) || filepath.Base(s.Shim) != "clusterd-shim" {
		t.Errorf("%+v, %v", s, err)
	}
	if err := (&settings{Address: "nowhere"}).reachable("127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "IPv4") {
		t.Errorf("got %v", err)
	}
	if err := s.reachable("127.0.0.1:1"); err != nil || s.Address != "127.0.0.1" {
		t.Errorf("%s, %v", s.Address, err)
	}
}

// member is a data directory of a node that has joined.
func member(t *testing.T, life time.Duration) *settings {
	t.Helper()
	s := &settings{Name: "w1", DataDir: t.TempDir()}
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	ca.Life = life
	id, err := ca.NewIdentity(pki.ID{Role: pki.Node, Name: "w1"})
	if err == nil {
		err = errors.Join(id.Save(s.identityDir()), s.saveMembership(membership{Name: "w1", Address: "10.0.0.2", Servers: []string{"127.0.0.1:1"}}))
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestJoinIsRemembered(t *testing.T) {
	log := hclog.NewNullLogger()
	s := member(t, time.Hour)
	m, err := s.join(t.Context(), log)
	if err != nil || m.Address != "10.0.0.2" || s.Address != "10.0.0.2" || m.Servers[0] != "127.0.0.1:1" {
		t.Errorf("%+v, %v", m, err)
	}
	s.Address = "10.0.0.9" // the machine moved
	if _, err := s.join(t.Context(), log); err != nil {
		t.Error(err)
	}
	if m, err := s.loadMembership(); err != nil || m.Address != "10.0.0.9" {
		t.Errorf("%+v, %v", m, err)
	}
	s.Name = "other"
	if _, err := s.join(t.Context(), log); err == nil || !strings.Contains(err.Error(), "belongs to node w1") {
		t.Errorf("another name: %v", err)
	}
}

// TestTokenOfAMemberIsNotPassedOver: a token that a node has no use for is told,
// unless it is the one that it joined with.
func TestTokenOfAMemberIsNotPassedOver(t *testing.T) {
	t.Setenv("CLUSTERD_JOIN_TOKEN", "")
	s := member(t, time.Hour)
	m, err := s.loadMembership()
	if err != nil {
		t.Fatal(err)
	}
	first, second := pki.NewJoinToken(strings.Repeat("0", 64)), pki.NewJoinToken(strings.Repeat("0", 64))
	m.Token = first.ID
	if err := s.saveMembership(m); err != nil {
		t.Fatal(err)
	}
	for token, told := range map[string]bool{"": false, first.Reveal(): false, second.Reveal(): true} {
		var out bytes.Buffer
		s.token = token
		if _, err := s.join(t.Context(), hclog.New(&hclog.LoggerOptions{Output: &out})); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(out.String(), "not used") && strings.Contains(out.String(), s.identityDir()); got != told {
			t.Errorf("token %.8s, joined with %s: %q", token, first.ID, out.String())
		}
		if strings.Contains(out.String(), second.Secret) {
			t.Errorf("the log has the token's secret: %q", out.String())
		}
	}
}

func TestJoinRefusesToGuess(t *testing.T) {
	log := hclog.NewNullLogger()
	t.Setenv("CLUSTERD_JOIN_TOKEN", "")
	good := pki.NewJoinToken(strings.Repeat("0", 64)).Reveal()
	for want, s := range map[string]*settings{
		"needs a join token":         {Name: "w1"},
		"it does not start with CJ1": {Name: "w1", token: "hello"},
		"--server host:port":         {Name: "w1", token: good},
		"--token-file":               {Name: "w1", tokenFile: "/no/such/file"},
		"certificate expired":        member(t, -time.Hour),
		"remove":                     halfMember(t),
	} {
		if s.DataDir == "" {
			s.DataDir = t.TempDir()
		}
		if _, err := s.join(t.Context(), log); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// halfMember has lost what belongs to its identity.
func halfMember(t *testing.T) *settings {
	s := member(t, time.Hour)
	if err := os.Remove(s.membershipFile()); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPeersAreRemembered(t *testing.T) {
	p := &peers{path: filepath.Join(t.TempDir(), "nodes.json"), log: hclog.NewNullLogger()}
	if got := p.recall(); got != nil {
		t.Errorf("at first: %v", got)
	}
	node := func(name, subnet, addr string) *api.Node {
		n := &api.Node{}
		n.Meta.Name, n.Effective.Subnet, n.Status.Address = name, subnet, addr
		n.Status.Health.Verdict = api.VerdictReady // of no interest
		return n
	}
	p.remember([]*api.Node{node("w2", "10.244.2.0/24", "10.0.0.3"), node("w1", "10.244.1.0/24", "10.0.0.2")})
	got := (&peers{path: p.path, log: p.log}).recall()
	if len(got) != 2 || got[0].Meta.Name != "w1" || got[1].Effective.Subnet != "10.244.2.0/24" || got[1].Status.Address != "10.0.0.3" || got[0].Status.Health.Verdict != "" {
		t.Errorf("recalled %+v", got)
	}
}
