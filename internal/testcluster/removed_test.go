package testcluster

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// A server that is deleted, while it runs or while it is down, says that it was
// removed, by whom, and the way back; at each start, and without coming back by
// itself. With an empty directory one of its name joins.
func TestRemovedServerSaysSo(t *testing.T) {
	t.Parallel()
	c := Start(t, Config{Servers: 3})
	servers := client.Of(c.Client(), api.Servers)
	vote := func(name string) {
		t.Helper()
		c.Await(name+" has a vote", func(ctx context.Context) (bool, error) {
			role := serverRole(ctx, c.Client(), name)
			return role == api.ServerVoter || role == api.ServerLeader, nil
		})
	}
	remove := func(name string) {
		t.Helper()
		if err := servers.Delete(t.Context(), "", name, ""); err != nil {
			t.Fatal(err)
		}
	}
	says := func(p *Process, dir string, err error, by string) {
		t.Helper()
		for _, want := range []string{"was removed from the cluster" + by, "with nothing in " + dir, "clusterd token create --role server", "--for " + p.name} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, which has no %q", p.name, err, want)
			}
		}
	}
	stillOut := func(p *Process, dir, by string) {
		t.Helper()
		for range 2 {
			_, err := p.start(t.Context())
			says(p, dir, err, by)
		}
		if _, err := servers.Get(t.Context(), "", p.name); !api.Is(err, api.NotFound) {
			t.Errorf("%s is back: %v", p.name, err)
		}
	}
	for _, name := range []string{"s1", "s2", "s3"} {
		vote(name)
	}

	s3, dir := c.Servers[2], filepath.Join(c.dir, "s3")
	s3.Stop()
	remove("s3")
	stillOut(s3, dir, "")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	s3.Start()
	vote("s3")

	s2 := c.Servers[1]
	dir = filepath.Join(c.dir, "s2")
	remove("s2")
	end := s2.cancel
	says(s2, dir, s2.wait(), " by user:")
	end()
	stillOut(s2, dir, " by user:")
}
