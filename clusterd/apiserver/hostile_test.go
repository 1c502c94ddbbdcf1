package apiserver

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/keys"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// hostile are bodies that break parsers: cut, deep, huge, of strange types and
// words.
func hostile() []string {
	deep := func(open, end string, n int) string { return strings.Repeat(open, n) + strings.Repeat(end, n) }
	return []string{
		"", "{", "null", "[]", "0", `"x"`, `{"spec":null}`, `{"spec":[]}`, `{"spec":{}}`, `{"spec":{"a":1}}`, "{}{}", "\x00", "\xff\xfe{}", `{"spec":{"name":"` + "\xed\xa0\x80" + `"}}`,
		deep("[", "]", 100_000), `{"spec":` + deep(`{"a":`, "}", 20_000) + `}`, `{"spec":` + strings.Repeat(`{"env":`, 9_999),
		`{"meta":{"name":"x","name":"y"},"spec":{}}`, `{"meta":{"revision":-1,"generation":9223372036854775808}}`, `{"spec":{"replicas":1e999}}`,
		`{"spec":{"image":"` + strings.Repeat("a", 1<<20) + `"}}`, strings.Repeat(" ", 1<<20+1),
		`{"kind":"Node","meta":{"namespace":"../..","name":"/etc/passwd"},"spec":{}}`,
		`{"writes":[` + strings.Repeat(`{},`, 501) + `{}]}`, `{"writes":[{"put":{"kind":"Nope"}}]}`, `{"writes":[null]}`, `{"csr":"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----"}`,
	}
}

// besieged is a server in this process that anything may be asked of. Nothing
// of it works by itself, so that what a request changes is known once it is
// answered, and what it leaves for later is done at once.
type besieged struct {
	s      *Server
	routes []route
	keys   *keys.Set // that it began with
}

func besiege(t testing.TB) *besieged {
	ctx, cancel := context.WithCancel(context.Background())
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	tunnels := &agents{nodes: map[string]*http.Client{"w1": {Transport: mute{}}}}
	s, err := Open(ctx, Config{Issuer: issuing{ca}, Tunnels: tunnels})
	if err != nil {
		t.Fatal(err)
	}
	var parts sync.WaitGroup
	parts.Go(func() { s.cache.run(ctx) })
	parts.Go(func() { s.followLeader(ctx) })
	t.Cleanup(func() { cancel(); parts.Wait(); s.Close() })
	c := client.InProcess(s.InProcess(system))
	if _, err := client.Of(c, api.Nodes).Create(ctx, &api.Node{Meta: api.Meta{Name: "w1"}}); err != nil {
		t.Fatal(err)
	}
	return &besieged{s: s, routes: s.routes(), keys: s.cfg.Keys}
}

// finish does what requests have left for later, and takes back what would make
// each next one dearer.
func (b *besieged) finish(t testing.TB, rt route) {
	ctx := context.Background()
	ready, _ := b.s.rings.due(time.Now(), true)
	for subject, events := range ready {
		if err := b.s.writeRing(ctx, subject, events); err != nil {
			t.Errorf("events of %s: %v", subject, err)
		}
	}
	if rt.act != api.VerbRotate {
		return
	}
	if code, got := call(b.s, system, "POST", "/v1/keys/secrets?forget=true", ""); code != http.StatusOK {
		t.Errorf("forget the older keys of secrets: %d %s", code, got)
	}
	if _, err := b.s.changeKeys(ctx, caller{Identity: system}, func(_ *snapshot, set *keys.Set) (*keys.Set, error) {
		set.CA, set.Gossip, set.Fresh = b.keys.CA, b.keys.Gossip, b.keys.Fresh
		return set, nil
	}); err != nil {
		t.Error(err)
	}
}

// changed are the keys of the store that were written or deleted since.
func (b *besieged) changed(t testing.TB, from int64) (all []string) {
	to, err := b.s.store.Revision(context.Background())
	if err != nil || from == to {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for batch, err := range b.s.store.Watch(ctx, root, from) {
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range batch.Events {
			all = append(all, e.Key)
		}
		if batch.Revision >= to {
			break
		}
	}
	return all
}

// ask sends a request, and expects neither a crash nor, if it is refused, a
// change of anything; nor, whatever is answered, of what is not the caller's.
func (b *besieged) ask(t testing.TB, who int, rt route, name, query, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	before, err := b.s.store.Revision(ctx)
	if err != nil {
		t.Fatal(err)
	}
	path := strings.NewReplacer("{namespace}", "default", "{name}", url.PathEscape(name), "{hash}", "ab", "{what}", url.PathEscape(name)).Replace(rt.path)
	r := httptest.NewRequest(rt.method, "/v1/nodes", strings.NewReader(body)).WithContext(ctx)
	r.URL = &url.URL{Path: path, RawQuery: query}
	if unescaped, err := url.PathUnescape(path); err == nil {
		r.URL.Path, r.URL.RawPath = unescaped, path
	}
	w := httptest.NewRecorder()
	var mine []string // keys of the store
	switch who % 3 {
	case 0: // a stranger
		b.s.ServeHTTP(w, r)
	case 1:
		b.s.InProcess(Identity{RoleNode, "w1"}).ServeHTTP(w, r)
		mine = []string{b.s.kinds["nodes"].key("", "w1"), b.s.ringKey(api.Nodes.Ref("", "w1"))}
	case 2: // an admin
		b.s.InProcess(Identity{RoleUser, "ada"}).ServeHTTP(w, r)
	}
	after, err := b.s.store.Revision(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	cut := body[:min(len(body), 200)]
	switch {
	case w.Code == int(api.Internal):
		t.Errorf("%s %s?%s %q: %s", rt.method, path, query, cut, w.Body)
	case w.Code >= 300 && after != before:
		t.Errorf("%s %s?%s %q: %d %s, and yet something was written", rt.method, path, query, cut, w.Code, w.Body)
	case who%3 == 0 && !rt.open && w.Code < 300:
		t.Errorf("%s %s?%s: a stranger is answered: %d %s", rt.method, path, query, w.Code, w.Body)
	}
	if w.Code >= 300 {
		return
	}
	b.finish(t, rt)
	for _, key := range b.changed(t, before) {
		if who%3 != 2 && !slices.Contains(mine, key) {
			t.Errorf("%s %s?%s %q by %d: %s was changed", rt.method, path, query, cut, who%3, key)
		}
	}
}

// TestHostileRequests: every route and kind withstands each hostile body, by
// whomever.
func TestHostileRequests(t *testing.T) {
	t.Parallel()
	b := besiege(t)
	for r, rt := range b.routes {
		if rt.method == "GET" {
			continue
		}
		for i, body := range hostile() {
			for who := range 3 {
				if large := len(body) >= 1<<16; large && who != (i+r)%3 {
					continue // each large one once of a route, each route's by all in turn
				}
				b.ask(t, who, rt, "x", "", body)
			}
		}
	}
}

// TestHostileSnapshots: of a store on disk, which alone can be saved. Nobody gets
// half a one, or changes anything by asking.
func TestHostileSnapshots(t *testing.T) {
	t.Parallel()
	s := runEtcd(t, t.TempDir())
	must(client.Of(s.c, api.Nodes).Create(t.Context(), &api.Node{Meta: api.Meta{Name: "w1"}}))(t)
	before := must(s.store.Revision(t.Context()))(t)
	bodies := append(hostile(), `{"passphrase":7}`, `{"passphrase":"a","passphrase":"b"}`, `{"passphrase":"`+strings.Repeat("a", 5<<10)+`"}`, `{"passphrase":"\u0000\ud800"}`)
	saved := 0
	for _, body := range bodies {
		for who, want := range map[Identity]int{{}: 401, {RoleNode, "w1"}: 403, {RoleUser, "ada"}: 200} {
			var code int
			var got string
			if who == (Identity{}) {
				w := attempt{method: "POST", path: "/v1/snapshot", body: body}.by(s.Server, "")
				code, got = w.Code, w.Body.String()
			} else {
				code, got = call(s.Server, who, "POST", "/v1/snapshot", body)
			}
			switch path := filepath.Join(t.TempDir(), "s"); {
			case code == 200 && want == 200:
				saved++
				if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
				if head, err := OpenSnapshot(path, ""); err != nil || head.Revision != before {
					t.Errorf("%.80q: %+v, %v", body, head, err)
				}
			case code != want && (want != 200 || code < 400 || code >= 500):
				t.Errorf("%s, %.80q: %d %.200s", who, body, code, got)
			}
		}
	}
	if after := must(s.store.Revision(t.Context()))(t); after != before || saved == 0 || saved == len(bodies) {
		t.Errorf("%d of %d saved, at revision %d, before %d", saved, len(bodies), after, before)
	}
}

// FuzzRequest asks anything of any route by anybody.
func FuzzRequest(f *testing.F) {
	b := besiege(f)
	for i, body := range hostile() {
		if len(body) < 1<<16 {
			f.Add(i, uint16(i), "x", "dry_run=true", body)
		}
	}
	for path, name := range map[string]string{"/v1/events": "", "/v1/keys/{what}": "secrets", "/v1/snapshot": "", "/v1/join": "", "/v1/renew": ""} {
		at := slices.IndexFunc(b.routes, func(rt route) bool { return rt.path == path && rt.method == http.MethodPost })
		for who := range 3 {
			for _, body := range []string{
				`{"subject":{"kind":"Node","name":"w1"},"event":{"reason":"r","message":"m","by":"user:ada","count":9}}`, `{"passphrase":""}`,
				`{"id":"t1","secret":"s","role":"server","name":"s2","address":"10.0.0.9:7443","gossip":"10.0.0.9:7946","peer":"10.0.0.9:7444","csr":"x","labels":{"a":"b"},"level":1}`,
			} {
				f.Add(who, uint16(at), name, "forget=true", body)
			}
		}
	}
	f.Add(2, uint16(3), "..%2f", "limit=-1&continue=AAAA&from=9223372036854775807", `{"spec":{"image":"nginx","replicas":-1}}`)
	f.Fuzz(func(t *testing.T, who int, at uint16, name, query, body string) {
		b.ask(t, who&0xff, b.routes[int(at)%len(b.routes)], name, query, body)
	})
}
