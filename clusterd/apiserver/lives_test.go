package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// pipes are a network of one server, in memory.
type pipes struct {
	dialled chan net.Conn
	closed  context.Context
}

func (p pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.dialled <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.dialled:
		return c, nil
	case <-p.closed.Done():
		return nil, net.ErrClosed
	}
}

func (pipes) Close() error   { return nil }
func (pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// TestManyShortLives: over real TLS, with certificates that live for a minute on
// both sides, a node asks every second and follows a watch for twenty lives. Each
// request is answered, each connection and watch ends no later than its
// certificate and a review, and the watch that goes on where the last one ended
// misses nothing.
func TestManyShortLives(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		const lives, life = 20, time.Minute
		ca := trusting(t, s)
		ca.Life = life
		makeNode(t, c, "w1", "1", "1Gi")
		node, server := must(ca.NewIdentity(pki.ID{Role: pki.Node, Name: "w1"}))(t), must(ca.NewIdentity(pki.ID{Role: pki.Server, Name: "s1"}))(t)
		ctx, cancel := context.WithCancel(t.Context())
		renewed := map[*pki.Identity]*atomic.Int32{node: {}, server: {}}
		done := make(chan error)
		for id, n := range renewed {
			go func() {
				done <- id.Keep(ctx, func(context.Context) error { n.Add(1); return ca.Reissue(id) }, func(err error) { t.Error(err) })
			}()
		}
		network := pipes{make(chan net.Conn), ctx}
		srv := &http.Server{Handler: s, TLSConfig: server.ServerTLS()}
		go func() { done <- srv.ServeTLS(network, "", "") }()
		transport := &http.Transport{DialContext: network.dial, TLSClientConfig: node.ClientTLS(), ForceAttemptHTTP2: true}
		hc := &http.Client{Transport: transport}
		// As our client does: told to come again, it does so on another connection.
		ask := func(path string) (*http.Response, error) {
			for range 3 {
				r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://s1/v1/nodes"+path, nil)
				if err != nil {
					return nil, err
				}
				resp, err := hc.Do(r)
				if err != nil || resp.StatusCode != http.StatusServiceUnavailable {
					return resp, err
				}
				resp.Body.Close()
			}
			return nil, fmt.Errorf("GET /v1/nodes%s is told to come again and again", path)
		}

		watches, seen := 0, []string{}
		go func() {
			from := must(client.Of(c, api.Nodes).Get(ctx, "", "w1"))(t).Meta.Revision
			for ctx.Err() == nil {
				resp, err := ask(fmt.Sprintf("?watch=true&from=%d", from))
				if err != nil {
					break
				}
				watches++
				ends := node.Leaf().NotAfter.Add(2 * roundEvery)
				for d := json.NewDecoder(resp.Body); ; {
					var ev api.WatchEvent[*api.Node]
					if d.Decode(&ev) != nil {
						break
					}
					if from = max(from, ev.Revision); ev.Object != nil {
						seen = append(seen, ev.Object.Meta.Labels["n"])
					}
				}
				resp.Body.Close()
				if late := time.Since(ends); late > 0 && ctx.Err() == nil {
					t.Errorf("watch %d ended %s too late", watches, late)
				}
			}
			done <- nil
		}()
		for n := range int(lives * life / time.Second) {
			resp, err := ask("")
			if err != nil {
				t.Fatal(err)
			}
			if resp.Body.Close(); resp.StatusCode != http.StatusOK {
				t.Fatalf("after %d s: %s", n, resp.Status)
			}
			if n%10 == 0 {
				w1 := must(client.Of(c, api.Nodes).Get(ctx, "", "w1"))(t)
				w1.Meta.Labels = map[string]string{"n": fmt.Sprint(n / 10)}
				must(client.Of(c, api.Nodes).Put(ctx, w1))(t)
			}
			time.Sleep(time.Second)
		}
		synctest.Wait()
		for i, n := range seen {
			if n != fmt.Sprint(i) {
				t.Fatalf("the watch saw %v", seen[:i+1])
			}
		}
		if want := int(lives * life / (10 * time.Second)); len(seen) != want || watches < lives {
			t.Errorf("%d watches saw %d of %d changes", watches, len(seen), want)
		}
		cancel()
		srv.Close()
		transport.CloseIdleConnections()
		for range 4 {
			if err := <-done; err != nil && err != http.ErrServerClosed {
				t.Error(err)
			}
		}
		for id, n := range renewed {
			if n.Load() < lives {
				t.Errorf("%s was renewed %d times in %d lives", id.ID(), n.Load(), lives)
			}
		}
	})
}
