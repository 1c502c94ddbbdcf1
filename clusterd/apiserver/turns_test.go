package apiserver

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// TestTurnsAreFair: whoever asks, waits and leaves in whatever order, seats are
// neither taken twice nor left free for who is next; each client is served in
// order and within its share.
func TestTurnsAreFair(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seats := rapid.IntRange(1, 8).Draw(t, "seats")
		q := newTurns(seats, rapid.IntRange(1, seats).Draw(t, "share"), rapid.IntRange(1, 6).Draw(t, "line"))
		type placed struct {
			client string
			turn   *turn
		}
		var open []placed
		is := func(n *turn) bool {
			select {
			case <-n.called:
				return true
			default:
				return false
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"ask": func(t *rapid.T) {
				who := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "who")
				had := 0
				if g := q.guests[who]; g != nil {
					had = len(g.waits)
				}
				n, ok := q.ask(who, rapid.IntRange(0, 10).Draw(t, "cost"))
				if ok != (had < q.line) {
					t.Fatalf("with %d of %d waiting: %t", had, q.line, ok)
				}
				if ok {
					open = append(open, placed{who, n})
				}
			},
			"leave": func(t *rapid.T) {
				if len(open) == 0 {
					t.Skip("nobody is there")
				}
				i := rapid.IntRange(0, len(open)-1).Draw(t, "which")
				q.leave(open[i].client, open[i].turn)
				open = slices.Delete(open, i, i+1)
			},
			"": func(t *rapid.T) {
				taken, waiting, by := 0, 0, map[string]int{}
				for _, p := range open {
					if is(p.turn) {
						taken += p.turn.cost
						by[p.client] += p.turn.cost
						if i := slices.IndexFunc(open, func(o placed) bool { return o.client == p.client && o.turn.arrived < p.turn.arrived && !is(o.turn) }); i >= 0 {
							t.Fatalf("%s was called before one that came earlier", p.client)
						}
					} else {
						waiting++
					}
				}
				if taken != q.taken || taken > q.seats || waiting != q.waiting {
					t.Fatalf("%d seats of %d are taken (%d by count), %d wait (%d by count)", taken, q.seats, q.taken, waiting, q.waiting)
				}
				for who, n := range by {
					if n > q.share {
						t.Fatalf("%s takes %d, its share is %d", who, n, q.share)
					}
				}
				if got, want := q.next(), dueNext(q); got != want {
					t.Fatalf("next is %+v, not %+v", got, want)
				}
				if g := q.next(); g != nil && q.taken+g.waits[0].cost <= q.seats {
					t.Fatal("seats are free for who is next")
				}
				for who, g := range q.guests {
					if g.taken == 0 && len(g.waits) == 0 {
						t.Fatalf("%s is remembered for nothing", who)
					}
				}
			},
		})
	})
}

// dueNext looks at everybody for whose turn it is.
func dueNext(q *turns) (least *guest) {
	due := func(g *guest) uint64 { return max(g.given, q.clock) }
	for _, g := range q.guests {
		if len(g.waits) == 0 || g.taken+g.waits[0].cost > q.share {
			continue
		}
		if least == nil || due(g) < due(least) || due(g) == due(least) && g.waits[0].arrived < least.waits[0].arrived {
			least = g
		}
	}
	return least
}

// TestFloodDelaysNobodyElse: with thousands of lists of eight clients in line, all
// but a few of another's requests wait no longer than it takes a seat to come
// free. Time is virtual, so it counts turns.
func TestFloodDelaysNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const work = 40 * time.Millisecond // of a list, which takes 8 seats
		q := newTurns(commonSeats, commonShare, 4000)
		var wg sync.WaitGroup
		for i := range 8000 {
			wg.Go(func() {
				leave, err := q.enter(t.Context(), fmt.Sprint("user:flood", i%8), 8)
				if err != nil {
					return // it has waited too long
				}
				time.Sleep(work)
				leave()
			})
		}
		var waits []time.Duration
		for range 100 {
			time.Sleep(7 * time.Millisecond)
			began := time.Now()
			leave, err := q.enter(t.Context(), "user:other", 1)
			if err != nil {
				t.Fatal(err)
			}
			waits = append(waits, time.Since(began))
			leave()
		}
		slices.Sort(waits)
		if p99 := waits[len(waits)*99/100]; p99 > work {
			t.Errorf("the other waits %s at the 99th percentile, of %s", p99, work)
		}
		if _, waiting, _ := q.load(); waiting < 1000 {
			t.Errorf("only %d of the flood wait: it is none", waiting)
		}
		wg.Wait()
		if taken, waiting, refused := q.load(); taken+waiting != 0 || refused == 0 || len(q.guests) != 0 {
			t.Errorf("at the end: %d taken, %d wait, %d refused", taken, waiting, refused)
		}
	})
}

// TestOverload: a client with a full line is told to come again later, and
// does; meanwhile another client, admins, the cluster's loops and the lease of a
// node are served at once.
func TestOverload(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		must(client.Of(c, api.Roles).Create(t.Context(), &api.Role{Meta: api.Meta{Name: "reader"}, Spec: api.RoleSpec{
			Rules: map[string]api.Rule{"read": {Namespaces: []string{"*"}, Kinds: []string{"*"}, Verbs: []string{"read"}}}}}))(t)
		issue := func(id string, spec api.TokenSpec) string {
			u := pki.UserToken{ID: id, Secret: pki.NewUserToken().Secret}
			spec.Hash = u.Hash()
			must(client.Of(c, api.Tokens).Create(t.Context(), &api.Token{Meta: api.Meta{Name: id}, Spec: spec}))(t)
			return u.Reveal()
		}
		flood, other := issue("flood", api.TokenSpec{Roles: []string{"reader"}}), issue("other", api.TokenSpec{Roles: []string{"reader"}})
		admin := issue("boss", api.TokenSpec{Role: api.RoleAdmin})
		makeNode(t, c, "w1", "1", "1Gi")
		// One client takes all that it may, and fills its line.
		var leaves []func()
		for range commonShare {
			leaves = append(leaves, must(s.common.enter(t.Context(), "user:flood", 1))(t))
		}
		for range commonLine {
			go func() {
				if leave, err := s.common.enter(t.Context(), "user:flood", 1); err == nil {
					leave()
				}
			}()
		}
		synctest.Wait()
		began := time.Now()
		w := over(s, nil, flood, "GET", "/v1/nodes/w1")
		if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "requests waiting already") {
			t.Errorf("one too many: %d %v %s", w.Code, w.Header(), w.Body)
		}
		for name, token := range map[string]string{"another": other, "an admin": admin} {
			if w := over(s, nil, token, "GET", "/v1/nodes/w1"); w.Code != 200 {
				t.Errorf("%s: %d %s", name, w.Code, w.Body)
			}
		}
		node := Identity{RoleNode, "w1"}
		s.common.taken += s.common.seats // not even a seat is free
		if code, body := call(s, node, "POST", "/v1/nodes/w1/applied", `{"revision":1}`); code != 204 {
			t.Errorf("a node that reports: %d %s", code, body)
		}
		if code, body := call(s, system, "GET", "/v1/nodes", ""); code != 200 {
			t.Errorf("the cluster's loops: %d %s", code, body)
		}
		if w := over(s, nil, admin, "DELETE", "/v1/tokens/flood"); w.Code != 200 {
			t.Errorf("an admin ends the flood: %d %s", w.Code, w.Body)
		}
		s.common.taken -= s.common.seats
		if took := time.Since(began); took != 0 {
			t.Errorf("they waited %s", took)
		}
		if v := s.Vitals(t.Context()); v.Seats != commonShare || v.Waiting != commonLine || v.Refused != 1 {
			t.Errorf("vitals are %+v", v)
		}
		for _, leave := range leaves {
			leave()
		}
		synctest.Wait()
		if v := s.Vitals(t.Context()); v.Seats != 0 || v.Waiting != 0 {
			t.Errorf("afterwards vitals are %+v", v)
		}
	})
}

// TestListsCostMore: a list takes seats by what lists brought before it, a page
// only what it may bring, and a watch none once it streams.
func TestListsCostMore(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		k := s.kinds["configs"]
		cost := func(query string) int {
			r := must(http.NewRequest("GET", "/v1/configs?"+query, nil))(t)
			return (&request{Request: r, route: route{kind: k, verb: "list"}}).cost()
		}
		for i := range 600 {
			put(t, s, fmt.Sprint("/v1/namespaces/default/configs/c", i), `{"spec":{"data":{"a":"b"}}}`, 201)
		}
		if got := cost(""); got != 1 {
			t.Errorf("before any list: %d", got)
		}
		if code, _ := call(s, system, "GET", "/v1/configs", ""); code != 200 {
			t.Fatal(code)
		}
		for query, want := range map[string]int{"": 1 + 600/listSeat, "limit=100": 1, "limit=300": 2, "watch=true": 1 + 600/listSeat, "watch=true&from=7": 1} {
			if got := cost(query); got != want {
				t.Errorf("%s costs %d, want %d", query, got, want)
			}
		}
		user := client.InProcess(s.InProcess(Identity{RoleUser, "ada"}))
		resp := must(user.Do(t.Context(), client.Request{Method: "GET", Path: "/v1/configs?watch=true"}))(t)
		defer resp.Body.Close()
		synctest.Wait()
		if taken, _, _ := s.admins.load(); taken != 0 {
			t.Errorf("a watch takes %d seats", taken)
		}
	})
}

// BenchmarkTurn is what a request pays for its turn, alone and beside a
// thousand clients that wait.
func BenchmarkTurn(b *testing.B) {
	for _, others := range []int{0, 1000} {
		b.Run(fmt.Sprint(others, "-wait"), func(b *testing.B) {
			q := newTurns(commonSeats, commonShare, commonLine)
			q.mu.Lock()
			q.taken = q.seats
			for i := range others {
				q.ask(fmt.Sprint("user:", i), 1)
			}
			if others == 0 {
				q.taken = 0
			}
			q.mu.Unlock()
			b.ReportAllocs()
			for b.Loop() {
				q.mu.Lock()
				n, _ := q.ask("user:me", 1)
				q.mu.Unlock()
				q.leave("user:me", n)
			}
		})
	}
}
