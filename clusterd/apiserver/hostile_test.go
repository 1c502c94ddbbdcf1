package apiserver

import (
	"context"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
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

// besieged is a server in this process that anything may be asked of.
type besieged struct {
	s      *Server
	routes []route
}

func besiege(t testing.TB) *besieged {
	ctx, cancel := context.WithCancel(context.Background())
	s, err := Open(ctx, Config{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; s.Close() })
	nodes := client.Of(client.InProcess(s.InProcess(system)), api.Nodes)
	if _, err := nodes.Create(ctx, &api.Node{Meta: api.Meta{Name: "w1"}}); err != nil {
		t.Fatal(err)
	}
	b := &besieged{s: s}
	for _, rt := range s.routes() {
		// What these do goes on after their answer.
		if !slices.Contains([]string{"/v1/events", "/v1/keys/{what}", "/v1/snapshot"}, rt.path) {
			b.routes = append(b.routes, rt)
		}
	}
	return b
}

// ask sends a request, and expects neither a crash nor, if it is refused, a
// change of anything.
func (b *besieged) ask(t testing.TB, who int, rt route, name, query, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	before, err := b.s.store.Revision(ctx)
	if err != nil {
		t.Fatal(err)
	}
	path := strings.NewReplacer("{namespace}", "default", "{name}", url.PathEscape(name), "{hash}", "ab", "{what}", "x").Replace(rt.path)
	r := httptest.NewRequest(rt.method, "/v1/nodes", strings.NewReader(body)).WithContext(ctx)
	r.URL = &url.URL{Path: path, RawQuery: query}
	if unescaped, err := url.PathUnescape(path); err == nil {
		r.URL.Path, r.URL.RawPath = unescaped, path
	}
	w := httptest.NewRecorder()
	switch who % 3 {
	case 0: // a stranger
		b.s.ServeHTTP(w, r)
	case 1:
		b.s.InProcess(Identity{RoleNode, "w1"}).ServeHTTP(w, r)
	case 2:
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
}

// TestHostileRequests: every route and kind withstands each hostile body, by
// whomever.
func TestHostileRequests(t *testing.T) {
	t.Parallel()
	b := besiege(t)
	for _, rt := range b.routes {
		if rt.method == "GET" {
			continue
		}
		for _, body := range hostile() {
			for who := range 3 {
				b.ask(t, who, rt, "x", "", body)
			}
		}
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
	f.Add(2, uint16(3), "..%2f", "limit=-1&continue=AAAA&from=9223372036854775807", `{"spec":{"image":"nginx","replicas":-1}}`)
	f.Fuzz(func(t *testing.T, who int, at uint16, name, query, body string) {
		b.ask(t, who&0xff, b.routes[int(at)%len(b.routes)], name, query, body)
	})
}
