package apiserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/keys"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// etcdConfig returns the configuration of a store in dir.
func etcdConfig(t testing.TB, dir string) *EtcdConfig {
	t.Helper()
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	id, err := ca.NewIdentity(pki.ID{Role: pki.Server, Name: "s1"}, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	files := filepath.Join(t.TempDir(), "identity")
	if err := id.Save(files); err != nil {
		t.Fatal(err)
	}
	cert, key, pem := pki.Files(files)
	return &EtcdConfig{Dir: dir, Name: "s1", PeerCert: cert, PeerKey: key, PeerCA: pem}
}

// running is a server that runs until stop.
type running struct {
	*Server
	c    *client.Client
	stop func()
}

func runEtcd(t testing.TB, dir string) *running { return runEtcdWith(t, dir, func(*EtcdConfig) {}) }

func runEtcdWith(t testing.TB, dir string, change func(*EtcdConfig)) *running {
	t.Helper()
	path := filepath.Join(dir, "keys.json")
	set, err := keys.Load(path)
	if errors.Is(err, os.ErrNotExist) {
		if set, err = keys.New("test"); err == nil {
			err = set.Save(path)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	conf := etcdConfig(t, dir)
	change(conf)
	s, err := Open(t.Context(), Config{Etcd: conf, Keys: set})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, s.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return &running{s, client.InProcess(s.InProcess(system)), stop}
}

// TestEtcdRestart: what was acknowledged is there after a restart, a watch
// from before is told to list again or goes on without a gap, the fence moves.
func TestEtcdRestart(t *testing.T) {
	dir := t.TempDir()
	s := runEtcd(t, dir)
	ctx := t.Context()
	apps := client.Of(s.c, api.Apps)
	var fence int64
	for fence = range s.Leader(ctx) {
		break
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 25 {
				a := newApp(fmt.Sprintf("w%d-%d", w, i))
				if _, err := apps.Create(ctx, a); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	before, rev, err := apps.List(ctx, "", nil)
	if err != nil || len(before) != 100 {
		t.Fatalf("%d apps: %v", len(before), err)
	}
	s.stop()
	s = runEtcd(t, dir)
	apps = client.Of(s.c, api.Apps)
	after, rev2, err := apps.List(ctx, "", nil)
	if err != nil || len(after) != 100 || rev2 < rev {
		t.Fatalf("%d apps at %d after %d: %v", len(after), rev2, rev, err)
	}
	for i := range after {
		if after[i].Meta.UID != before[i].Meta.UID || after[i].Meta.Revision != before[i].Meta.Revision {
			t.Errorf("%s became %+v", before[i].Meta.Name, after[i].Meta)
		}
	}
	for again := range s.Leader(ctx) {
		if again <= fence {
			t.Errorf("fence %d after %d", again, fence)
		}
		break
	}
	_, err = client.Of(s.c.Fenced(func() int64 { return fence }), api.Apps).Create(ctx, newApp("late"))
	wantCode(t, err, api.Precondition)
	for _, err := range apps.Watch(ctx, "", nil, rev-50) {
		wantCode(t, err, api.Gone)
		break
	}
	must(apps.Create(ctx, newApp("new")))(t)
	for ev, err := range apps.Watch(ctx, "", nil, rev2) {
		if err != nil {
			t.Fatal(err)
		}
		if ev.Type == api.EventPut {
			if ev.Object.Meta.Name != "new" {
				t.Errorf("first event is %+v", ev.Object.Meta)
			}
			break
		}
	}
}

// TestEtcdUnderRaces runs on the real store what the bubbles run in memory.
func TestEtcdUnderRaces(t *testing.T) {
	s := runEtcd(t, t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	makeNode(t, s.c, "w1", "1", "10Gi")
	for i := range 40 {
		makePod(t, s.c, fmt.Sprint("p", i), "100m", "16Mi")
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	bound := 0
	for i := range 40 {
		wg.Go(func() {
			err := tryBind(t, s.c, fmt.Sprint("p", i), "w1")
			if err == nil {
				mu.Lock()
				bound++
				mu.Unlock()
			} else if !api.Is(err, api.Conflict) || !strings.Contains(err.Error(), "does not fit") {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if bound != 10 {
		t.Errorf("%d pods of 100m were bound to a node of 1 cpu", bound)
	}
	// A read never misses a write that was acknowledged before it.
	apps := client.Of(s.c, api.Apps)
	for w := range 4 {
		wg.Go(func() {
			a := newApp(fmt.Sprint("w", w))
			for i := range 50 {
				a.Spec.Image = fmt.Sprint("n:", i)
				put, err := apps.Put(ctx, a)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := apps.Get(ctx, "default", a.Meta.Name)
				if err != nil || got.Meta.Revision < put.Meta.Revision {
					t.Errorf("read %+v after %+v: %v", got, put.Meta, err)
				}
			}
		})
	}
	wg.Wait()
}
