package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// Statuses that come while one is written go together; when one of them is
// refused, each hears what is so of its own pod.
func TestStatusesGoTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var asked []string
		open := make(chan struct{})
		s := newStatuses(client.InProcess(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			what := strings.TrimPrefix(r.URL.Path, "/v1/")
			var b api.Batch
			if what == "batch" {
				if err := json.NewDecoder(r.Body).Decode(&b); err != nil {
					t.Error(err)
				}
				what = fmt.Sprint("batch of ", len(b.Writes))
			}
			mu.Lock()
			asked = append(asked, what)
			mu.Unlock()
			<-open
			ended := strings.HasSuffix(what, "ended/status")
			for _, one := range b.Writes {
				ended = ended || strings.Contains(string(one.Status), `"ended"`)
			}
			if ended {
				w.WriteHeader(http.StatusConflict)
				fmt.Fprint(w, `{"detail":"it has ended"}`)
				return
			}
			fmt.Fprint(w, `{"revision":7,"meta":{"name":"x","revision":8}}`)
		})))
		ctx, end := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { s.run(ctx) })
		put := func(names ...string) (revisions map[string]int64, refused map[string]bool) {
			revisions, refused = map[string]int64{}, map[string]bool{}
			var wg sync.WaitGroup
			for _, name := range names {
				wg.Go(func() {
					stored, err := s.put(t.Context(), &api.Pod{Meta: api.Meta{Namespace: "default", Name: name}})
					mu.Lock()
					defer mu.Unlock()
					if refused[name] = api.Is(err, api.Conflict); err == nil {
						revisions[name] = stored.Meta.Revision
					}
				})
				synctest.Wait()
			}
			close(open)
			wg.Wait()
			return revisions, refused
		}
		if revisions, _ := put("a", "b", "c", "d"); revisions["a"] != 8 || revisions["b"] != 7 || revisions["d"] != 7 {
			t.Errorf("stored at %v", revisions)
		}
		if got := strings.Join(asked, ", "); got != "namespaces/default/pods/a/status, batch of 3" {
			t.Errorf("asked: %s", got)
		}
		asked, open = nil, make(chan struct{})
		if revisions, refused := put("e", "f", "ended"); !refused["ended"] || refused["f"] || revisions["f"] != 8 {
			t.Errorf("stored at %v, refused %v", revisions, refused)
		}
		if got := strings.Join(asked, ", "); got != "namespaces/default/pods/e/status, batch of 2, namespaces/default/pods/f/status, namespaces/default/pods/ended/status" {
			t.Errorf("asked: %s", got)
		}
		end()
		run.Wait()
	})
}
