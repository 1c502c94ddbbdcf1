package apiserver

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/clusterd/keys"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// TestRemovedServerDoesNotStart: a note is left to a server that is deleted, but
// not where servers of level 1 would leave it to the next of the name. Whose
// store has no other server any more starts all the same.
func TestRemovedServerDoesNotStart(t *testing.T) {
	set := must(keys.New("test"))(t)
	for level, refused := range map[int]bool{1: false, 2: true} {
		synctest.Test(t, func(t *testing.T) {
			memory := store.NewMemory()
			s1, stop := run(t, Config{Name: "s1", Level: level, Keys: set, shared: memory})
			c := client.InProcess(s1.InProcess(Identity{RoleSystem, "ada"}))
			servers := client.Of(c, api.Servers)
			must(servers.Create(t.Context(), &api.Server{Meta: api.Meta{Name: "s2"}, Spec: api.ServerSpec{Address: "10.0.0.2:7443", Gossip: "10.0.0.2:7946"}}))(t)
			if err := servers.Delete(t.Context(), "", "s2", ""); err != nil {
				t.Fatal(err)
			}
			stop()
			open := func(name string, alone bool) error {
				_, err := Open(t.Context(), Config{Name: name, Keys: set, Alone: alone, shared: stays{memory}})
				return err
			}
			err := open("s2", false)
			if gone, removed := errors.AsType[*RemovedError](err); removed != refused || removed && !strings.HasPrefix(gone.By, "system:ada") {
				t.Errorf("level %d: %v", level, err)
			}
			for _, err := range []error{open("s3", false), open("s2", true), open("s2", false)} {
				if err != nil {
					t.Errorf("level %d: %v", level, err)
				}
			}
		})
	}
}

// stays is a store that a server which does not start leaves open.
type stays struct{ store.Store }

func (stays) Close() error { return nil }
