package apiserver

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// mutable is a store that can fall silent, as one without a majority.
type mutable struct {
	store.Store
	mute atomic.Bool
}

func (m *mutable) Revision(ctx context.Context) (int64, error) {
	if m.mute.Load() {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return m.Store.Revision(ctx)
}

// What a server counts is told also while the store is silent, to whoever was
// known before; all else says whose silence it is.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &mutable{Store: store.NewMemory()}
		s, stop := run(t, Config{shared: st, Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "clusterd_store_up 0\n") })})
		defer s.Close()
		defer stop()
		c := client.InProcess(s.InProcess(system))
		u := pki.NewUserToken()
		must(client.Of(c, api.Tokens).Create(t.Context(), userToken(u.ID, u.Hash())))(t)
		st.mute.Store(true)
		began := time.Now()
		if w := over(s, nil, u.Reveal(), "GET", "/metrics"); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "store_up 0") || time.Since(began) > alwaysTimeout {
			t.Errorf("metrics, after %s: %d %s", time.Since(began), w.Code, w.Body)
		}
		if w := over(s, nil, pki.NewUserToken().Reveal(), "GET", "/metrics"); w.Code != http.StatusUnauthorized {
			t.Errorf("metrics for a stranger: %d %s", w.Code, w.Body)
		}
		if w := over(s, nil, u.Reveal(), "GET", "/v1/nodes"); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "no majority of the servers") {
			t.Errorf("nodes: %d %s", w.Code, w.Body)
		}
		s.cfg.External = &store.ExternalConfig{Endpoints: []string{"https://10.0.0.254:2379"}}
		if w := over(s, nil, u.Reveal(), "GET", "/v1/nodes"); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "the etcd at https://10.0.0.254:2379 does not answer") {
			t.Errorf("nodes of an etcd of one's own: %d %s", w.Code, w.Body)
		}
	})
}
