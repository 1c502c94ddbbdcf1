package apiserver

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// What pods use is asked of their nodes through the tunnels when somebody wants
// to know, and kept for a moment: it costs the store nothing.
const (
	usageFresh   = 5 * time.Second
	usageTimeout = 4 * time.Second
	maxUsage     = 4 << 20
)

// usages remembers what nodes last said.
type usages struct {
	mu   sync.Mutex
	node map[string]*nodeUsage
}

// nodeUsage is one node's word; who asks while it is asked waits for that.
type nodeUsage struct {
	mu    sync.Mutex
	at    time.Time
	items []api.PodUsage
}

// serveUsage answers GET /v1/usage, of all pods or a namespace's.
func (s *Server) serveUsage(w http.ResponseWriter, r *request) error {
	ns := r.URL.Query().Get("namespace")
	if err := allow(r.by, ask{verb: api.VerbRead, kind: s.kinds["pods"], namespace: ns}); err != nil {
		return err
	}
	return s.answerUsage(w, r, ns, "")
}

// servePodUsage answers GET …/usage of a pod.
func (s *Server) servePodUsage(w http.ResponseWriter, r *request) error {
	o, _, err := s.pod(r, api.VerbRead)
	if err != nil {
		return err
	}
	return s.answerUsage(w, r, o.meta.Namespace, o.meta.UID)
}

func (s *Server) answerUsage(w http.ResponseWriter, r *request, namespace, uid string) error {
	if s.cfg.Tunnels == nil {
		return errNoTunnels()
	}
	snap, err := s.latest(r)
	if err != nil {
		return err
	}
	pods := map[string]*object{} // by UID, those on a node
	on := map[string]bool{}
	snap.each(s.kinds["pods"].prefix(namespace), "", func(o *object) bool {
		if node := nodeOf(o); node != "" && !phaseOf(o).Ended() && (uid == "" || o.meta.UID == uid) {
			pods[o.meta.UID], on[node] = o, true
		}
		return true
	})
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := api.UsageAnswer{Items: []api.PodUsage{}}
	for node := range on {
		wg.Go(func() {
			items, err := s.usageOf(r.Context(), node)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				s.log.Debug("usage", "node", node, "error", err)
				out.Mute = append(out.Mute, node)
				return
			}
			for _, u := range items {
				if o := pods[u.UID]; o != nil && nodeOf(o) == node { // a node speaks of its own pods only
					u.Namespace, u.Pod, u.Node = o.meta.Namespace, o.meta.Name, node
					out.Items = append(out.Items, u)
				}
			}
		})
	}
	wg.Wait()
	slices.Sort(out.Mute)
	slices.SortFunc(out.Items, func(a, b api.PodUsage) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Pod, b.Pod))
	})
	answer(w, http.StatusOK, snap.revision, marshal(out))
	return nil
}

// usageOf returns what the pods of a node use, not older than a moment.
func (s *Server) usageOf(ctx context.Context, node string) ([]api.PodUsage, error) {
	s.usages.mu.Lock()
	if s.usages.node == nil {
		s.usages.node = map[string]*nodeUsage{}
	}
	u := s.usages.node[node]
	if u == nil {
		u = &nodeUsage{}
		s.usages.node[node] = u
	}
	s.usages.mu.Unlock()
	u.mu.Lock()
	defer u.mu.Unlock()
	if time.Since(u.at) < usageFresh {
		return u.items, nil
	}
	client, err := s.agent(s.kinds["nodes"].ref("", node), node)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), usageTimeout) // others wait for it too
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+node+"/v1/usage", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, api.Errorf(api.Unready, "node %s: %s", node, problemOf(resp))
	}
	var said api.UsageAnswer
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxUsage)).Decode(&said); err != nil {
		return nil, api.Errorf(api.Unready, "node %s: its answer is broken: %s", node, err)
	}
	u.at, u.items = time.Now(), said.Items
	return u.items, nil
}
