package apiserver

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

func TestWhatIsFull(t *testing.T) {
	const mb = 1 << 20
	for _, tc := range []struct {
		space      store.Space
		full, pack bool
	}{
		{store.Space{Size: 10 * mb, InUse: 1 * mb, Quota: 100 * mb}, false, false},
		{store.Space{Size: 80 * mb, InUse: 30 * mb, Quota: 100 * mb}, false, true},
		{store.Space{Size: 70 * mb, InUse: 60 * mb, Quota: 100 * mb}, false, false},
		{store.Space{Size: 91 * mb, InUse: 60 * mb, Quota: 100 * mb}, true, true},
		{store.Space{Size: 99 * mb, InUse: 91 * mb, Quota: 100 * mb}, true, false},
		{store.Space{Size: 80 * mb, InUse: 30 * mb, Quota: 8000 * mb}, false, false}, // there is plenty
	} {
		if crowded(tc.space) != tc.full || airy(tc.space) != tc.pack {
			t.Errorf("%+v: full %v, worth packing %v", tc.space, crowded(tc.space), airy(tc.space))
		}
	}
}

// TestFullStore: a store that is nearly full says so, takes deletes and
// statuses, and takes everything again once there is room.
func TestFullStore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := runEtcdWith(t, dir, func(c *EtcdConfig) { c.Quota = 16 << 20 })
	configs := client.Of(s.c, api.Configs)
	st := s.store.(store.Spacious)
	look := func() {
		t.Helper()
		if err := s.lookAtSpace(t.Context(), st); err != nil {
			t.Fatal(err)
		}
	}
	big := strings.Repeat("x", 500<<10)
	var err error
	made := 0
	for ; made < 60; made++ {
		look()
		c := &api.Config{Meta: api.Meta{Name: fmt.Sprint("c", made), Namespace: "default"}, Spec: api.ConfigSpec{Data: map[string]string{"big": fmt.Sprint(made, big)}}}
		if _, err = configs.Create(t.Context(), c); err != nil {
			break
		}
	}
	if api.CodeOf(err) != insufficientStorage || !strings.Contains(err.Error(), "only deletes and statuses are taken") {
		t.Fatalf("after %d configs: %v", made, err)
	}
	me := &api.Server{Meta: api.Meta{Name: "s1"}}
	if _, err := client.Of(s.c, api.Servers).PutStatus(t.Context(), me); err != nil && !api.Is(err, api.NotFound) {
		t.Errorf("a status: %v", err)
	}
	for i := range made {
		if err := configs.Delete(t.Context(), "default", fmt.Sprint("c", i), ""); err != nil {
			t.Fatalf("delete: %v", err)
		}
	}
	contents, _, err := client.Of(s.c, api.Contents).List(t.Context(), "default", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range contents {
		if err := client.Of(s.c, api.Contents).Delete(t.Context(), "default", c.Meta.Name, ""); err != nil {
			t.Fatalf("delete: %v", err)
		}
	}
	rev, err := s.store.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.store.Compact(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
	if err := s.store.(store.Spacious).Defragment(t.Context()); err != nil { // its turn may be minutes away
		t.Fatal(err)
	}
	for until := time.Now().Add(20 * time.Second); s.room.full.Load() && time.Now().Before(until); {
		look()
		time.Sleep(50 * time.Millisecond)
	}
	if _, err := configs.Create(t.Context(), &api.Config{Meta: api.Meta{Name: "small", Namespace: "default"}, Spec: api.ConfigSpec{Data: map[string]string{"k": "v"}}}); err != nil {
		t.Errorf("there is room again: %v", err)
	}
}
