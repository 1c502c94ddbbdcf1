package gossip

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

type member struct {
	*Gossip
	kill func() // as if its power was cut
}

func start(t *testing.T, name string, key []byte, seeds ...string) member {
	t.Helper()
	return run(t, Config{Name: name, Bind: "127.0.0.1:0", Keys: [][]byte{key}, Meta: []byte("m-" + name), Seeds: func() []string { return seeds }})
}

func run(t *testing.T, c Config) member {
	t.Helper()
	g, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); g.Run(ctx) }()
	kill := func() { cancel(); <-done }
	t.Cleanup(kill)
	return member{g, kill}
}

// await blocks on changes until g sees the wanted states, "a=alive b=dead".
func await(t *testing.T, g Source, want string) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		got := states(g)
		if got == want {
			return
		}
		select {
		case <-g.Changes():
		case <-limit:
			t.Fatalf("sees %s, want %s", got, want)
		}
	}
}

func states(g Source) string {
	var out []string
	for _, m := range g.Members() {
		out = append(out, fmt.Sprintf("%s=%s", m.Name, m.State))
	}
	return strings.Join(out, " ")
}

func TestJoinDieLeaveReturn(t *testing.T) {
	key := bytes.Repeat([]byte{7}, 32)
	a := start(t, "a", key)
	b := start(t, "b", key, a.Addr())
	c := start(t, "c", key, a.Addr())
	d := start(t, "d", key, a.Addr())
	await(t, a, "a=alive b=alive c=alive d=alive")
	await(t, b, "a=alive b=alive c=alive d=alive")
	if m := a.Members()[1]; string(m.Meta) != "m-b" || m.Addr != b.Addr() {
		t.Errorf("b is %+v", m)
	}

	began := time.Now()
	c.kill()
	await(t, a, "a=alive b=alive c=dead d=alive")
	t.Logf("death seen after %s", time.Since(began).Round(time.Millisecond))
	await(t, b, "a=alive b=alive c=dead d=alive")

	if err := d.Leave(2 * time.Second); err != nil {
		t.Errorf("leave: %v", err)
	}
	d.kill()
	await(t, a, "a=alive b=alive c=dead d=left")
	await(t, b, "a=alive b=alive c=dead d=left")

	start(t, "d", key, a.Addr()) // comes back under its name from another port
	await(t, b, "a=alive b=alive c=dead d=alive")
}

// A server that restarts has lost its view; who looks for it brings the rest,
// also when it was the server who told where to look.
func TestRestartedMemberIsFoundAgain(t *testing.T) {
	key := bytes.Repeat([]byte{7}, 32)
	a := start(t, "a", key)
	addr := a.Addr()
	var dead atomic.Bool
	b := run(t, Config{Name: "b", Bind: "127.0.0.1:0", Keys: [][]byte{key}, Seeds: func() []string {
		if dead.Load() {
			return nil
		}
		return []string{addr}
	}})
	await(t, b, "a=alive b=alive")
	dead.Store(true)
	a.kill()
	await(t, b, "a=dead b=alive")
	again := run(t, Config{Name: "a", Bind: addr, Keys: [][]byte{key}})
	await(t, b, "a=alive b=alive")
	await(t, again, "a=alive b=alive")
}

func TestWrongKeyStaysOut(t *testing.T) {
	a := start(t, "a", bytes.Repeat([]byte{7}, 32))
	b, err := Open(Config{Name: "b", Bind: "127.0.0.1:0", Keys: [][]byte{bytes.Repeat([]byte{8}, 32)}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.list.Shutdown()
	if n, err := b.list.Join([]string{a.Addr()}); err == nil || n != 0 {
		t.Errorf("joined %d: %v", n, err)
	}
	if got := states(a); got != "a=alive" {
		t.Errorf("a sees %s", got)
	}
}

func TestOpenRefuses(t *testing.T) {
	key := bytes.Repeat([]byte{7}, 32)
	for want, c := range map[string]Config{
		"want 32":           {Name: "a", Bind: "127.0.0.1:0", Keys: [][]byte{key[:5]}},
		"at most 64":        {Name: "a", Bind: "127.0.0.1:0", Keys: [][]byte{key}, Meta: make([]byte, 65)},
		"bind address":      {Name: "a", Bind: "nonsense", Keys: [][]byte{key}},
		"must be a number ": {Name: "a", Bind: "127.0.0.1:http", Keys: [][]byte{key}},
	} {
		if _, err := Open(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestSimulated(t *testing.T) {
	f := NewSimulated()
	f.Set("w1", Alive)
	f.Set("w2", Alive)
	f.Set("w1", Dead)
	await(t, f, "w1=dead w2=alive")
}
