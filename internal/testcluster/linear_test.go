package testcluster

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// register is one object to those who read and write it.
type register struct {
	generation int64 // 0: it does not exist
	value      string
}

// call is what somebody asked of one object.
type call struct {
	verb       string // create, replace, delete, get
	name       string
	generation int64 // replace: the one it must have
	value      string
}

// reply is what came back. An unknown one may have happened or not, at any time
// since.
type reply struct {
	code    api.Code // 0: as asked
	unknown bool
	saw     register // get
}

// objects says what each call may answer, by the contract of the API.
var objects = porcupine.Model{
	Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
		by := map[string][]porcupine.Operation{}
		for _, op := range history {
			name := op.Input.(call).name
			by[name] = append(by[name], op)
		}
		for _, part := range by {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return register{} },
	Step: func(state, input, output any) (bool, any) {
		now, in, out := state.(register), input.(call), output.(reply)
		next, can := now, false
		switch in.verb {
		case "create":
			can, next = now.generation == 0, register{1, in.value}
		case "replace":
			can, next = now.generation == in.generation, register{in.generation + 1, in.value}
		case "delete":
			can, next = now.generation != 0, register{}
		case "get":
			return out.unknown || out.saw == now, now
		}
		switch {
		case out.unknown && !can:
			return true, now
		case out.unknown, out.code == 0:
			return can, next
		}
		return !can, now
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

// TestHistoryIsLinearizable (P1, P2): what many clients of three servers asked
// and heard, while leaders are killed and paused, is the history of one store;
// and who watches sees every generation of every object, without a gap.
func TestHistoryIsLinearizable(t *testing.T) {
	t.Parallel()
	c := Start(t, Config{Servers: 3, Separate: true})
	for _, name := range []string{"s1", "s2", "s3"} {
		c.Await(name+" has a vote", func(ctx context.Context) (bool, error) {
			role := serverRole(ctx, c.Client(), name)
			return role == api.ServerVoter || role == api.ServerLeader, nil
		})
	}
	began := time.Now()
	var mu sync.Mutex
	var history []porcupine.Operation
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for who := range 6 {
		cl := c.Client()
		urls := c.URLs()
		if err := cl.Use(append(urls[who%3:], urls[:who%3]...)); err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			dice := rand.New(rand.NewPCG(1, uint64(who)))
			known := map[string]int64{}
			for n := 0; ctx.Err() == nil; n++ {
				in := call{name: fmt.Sprintf("tr%d", dice.IntN(5)), value: fmt.Sprintf("%d-%d", who, n)}
				in.verb = []string{"get", "replace", "replace", "get", "create", "delete"}[dice.IntN(6)]
				if in.verb == "replace" {
					in.generation = max(known[in.name], 1)
				}
				from := time.Since(began)
				out := ask(ctx, cl, in)
				to := time.Since(began).Nanoseconds()
				known[in.name] = out.saw.generation
				if out.unknown {
					if in.verb == "get" {
						continue
					}
					to = math.MaxInt64
				}
				mu.Lock()
				history = append(history, porcupine.Operation{ClientId: who, Input: in, Call: from.Nanoseconds(), Output: out, Return: to})
				mu.Unlock()
				time.Sleep(time.Duration(dice.IntN(10)) * time.Millisecond)
			}
		})
	}
	all.Go(func() { watchWithoutGap(ctx, t, c.Client()) })
	asked := func() int { mu.Lock(); defer mu.Unlock(); return len(history) }
	for round := range 4 {
		leader := c.Leader()
		seen := asked()
		c.Await("calls go on", func(context.Context) (bool, error) { return asked() > seen+100, nil })
		if round%2 == 0 {
			leader.Kill()
		} else {
			leader.Pause()
		}
		seen = asked()
		c.Await("calls go on without "+leader.name, func(context.Context) (bool, error) { return asked() > seen+100, nil })
		if round%2 == 0 {
			leader.Start()
		} else {
			leader.Resume()
		}
	}
	stop()
	all.Wait()
	unknown := 0
	for _, op := range history {
		if op.Output.(reply).unknown {
			unknown++
		}
	}
	if got := porcupine.CheckOperationsTimeout(objects, history, time.Minute); got != porcupine.Ok {
		t.Errorf("the history of %d calls, %d of them of unknown end, is %s", len(history), unknown, got)
	}
	t.Logf("%d calls, %d of unknown end", len(history), unknown)
}

// ask carries a call out. An update that finds what it asks for changes nothing,
// so values are never asked for twice.
func ask(ctx context.Context, cl *client.Client, in call) reply {
	tokens := client.Of(cl, api.Tokens)
	token := &api.Token{Meta: api.Meta{Name: in.name}, Spec: api.TokenSpec{Role: api.RoleAdmin, Hash: strings.Repeat("0", 64), Description: in.value}}
	var err error
	switch in.verb {
	case "create":
		_, err = tokens.Create(ctx, token)
	case "replace":
		_, err = tokens.Replace(ctx, token, in.generation)
	case "delete":
		err = tokens.Delete(ctx, "", in.name, "")
	case "get":
		var o *api.Token
		if o, err = tokens.Get(ctx, "", in.name); err == nil {
			return reply{saw: register{o.Meta.Generation, o.Spec.Description}}
		}
		if api.Is(err, api.NotFound) {
			return reply{}
		}
	}
	if e, ok := errors.AsType[*api.Error](err); ok && e.Uncertain {
		return reply{unknown: true}
	}
	switch code := api.CodeOf(err); code {
	case 0, api.Conflict, api.Precondition, api.NotFound:
		return reply{code: code}
	}
	return reply{unknown: true}
}

// watchWithoutGap follows all objects from their first generation on. A watch
// that cannot go on where it was must say so.
func watchWithoutGap(ctx context.Context, t *testing.T, cl *client.Client) {
	tokens := client.Of(cl, api.Tokens)
	last, from := map[string]api.Meta{}, int64(0)
	for ctx.Err() == nil {
		if from == 0 {
			items, rev, err := tokens.List(ctx, "", nil)
			if err != nil {
				continue
			}
			clear(last)
			for _, o := range items {
				last[o.Meta.Name] = o.Meta
			}
			from = rev
		}
		for ev, err := range tokens.Watch(ctx, "", nil, from) {
			if api.Is(err, api.Gone) {
				from = 0
			}
			if err != nil {
				break
			}
			if ev.Revision < from {
				t.Errorf("a watch from %d tells of %d", from, ev.Revision)
			}
			from = ev.Revision
			if ev.Type == api.EventBookmark {
				continue
			}
			is := ev.Object.Meta
			was, had := last[is.Name]
			switch {
			case ev.Type == api.EventDelete:
				if !had || was.UID != is.UID {
					t.Errorf("%s went, which was never told to be there", is.Name)
				}
				delete(last, is.Name)
				continue
			case had && was.UID == is.UID && is.Generation != was.Generation+1,
				had && was.UID != is.UID, !had && is.Generation != 1:
				t.Errorf("%s is at generation %d after %d (uid %s, %s)", is.Name, is.Generation, was.Generation, is.UID, was.UID)
			}
			last[is.Name] = is
		}
	}
}
