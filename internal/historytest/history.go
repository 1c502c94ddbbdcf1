// Package historytest checks what clients of a cluster asked and heard: that it
// is the history of one store, whichever servers they asked and whatever became
// of those, and that nothing acknowledged is lost.
//
// A call whose end is unknown may have happened or not, at any time since. The
// objects are tokens that open nothing: no loop of the cluster touches them.
package historytest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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

// reply is what came back.
type reply struct {
	code    api.Code // 0: as asked
	unknown bool
	saw     register // get
}

func (r reply) acked() bool { return !r.unknown && r.code == 0 }

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

// History is what its clients asked and heard. Its zero value has nothing yet.
type History struct {
	Every time.Duration // between two calls of a client; up to 10 ms at random when unset

	once   sync.Once
	epoch  time.Time
	round  atomic.Int64
	mu     sync.Mutex
	ops    []porcupine.Operation
	kept   []string // what was acknowledged, and is never deleted
	writes int      // that were acknowledged
}

func (h *History) now() time.Duration {
	h.once.Do(func() { h.epoch = time.Now() })
	return time.Since(h.epoch)
}

// Turn has the clients go on with other objects: calls of unknown end make the
// check of an object hard, and a few of them in a round do not.
func (h *History) Turn() { h.round.Add(1) }

// Client asks this and that until ctx ends, which is not heard in an answer.
func (h *History) Client(ctx context.Context, cl *client.Client, who int) {
	dice := rand.New(rand.NewPCG(1, uint64(who)))
	known := map[string]int64{}
	var tick <-chan time.Time
	if h.Every > 0 {
		t := time.NewTicker(h.Every)
		defer t.Stop()
		tick = t.C
	}
	for n := 0; ctx.Err() == nil; n++ {
		in := call{name: fmt.Sprintf("tr%d-%d", h.round.Load(), dice.IntN(5)), value: fmt.Sprintf("%d-%d", who, n)}
		in.verb = []string{"get", "get", "create", "replace", "delete", "keep", "keep", "keep"}[dice.IntN(8)]
		switch in.verb {
		case "replace":
			in.generation = max(known[in.name], 1)
		case "keep":
			in.verb, in.name = "create", fmt.Sprintf("keep-%d-%d", who, n)
		}
		if out, ok := h.record(ctx, cl, who, in); ok {
			switch {
			case in.verb == "get":
				known[in.name] = out.saw.generation
			case in.verb == "create" && out.acked():
				known[in.name] = 1
			case in.verb == "replace" && out.acked():
				known[in.name] = in.generation + 1
			default:
				delete(known, in.name)
			}
		}
		if tick != nil {
			<-tick
		} else {
			time.Sleep(time.Duration(dice.IntN(10)) * time.Millisecond)
		}
	}
}

// record carries a call out and writes it down. A read that heard nothing says
// nothing.
func (h *History) record(ctx context.Context, cl *client.Client, who int, in call) (reply, bool) {
	from := h.now()
	out := ask(ctx, cl, in)
	to := h.now().Nanoseconds()
	if out.unknown {
		if in.verb == "get" {
			return out, false
		}
		to = math.MaxInt64
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: who, Input: in, Call: from.Nanoseconds(), Output: out, Return: to})
	if in.verb != "get" && out.acked() {
		h.writes++
		if strings.HasPrefix(in.name, "keep-") {
			h.kept = append(h.kept, in.name)
		}
	}
	return out, true
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

// Len is how many calls there were.
func (h *History) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ops)
}

// Writes is how many writes were acknowledged.
func (h *History) Writes() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.writes
}

// Silence is the longest time since the moment in which no write was
// acknowledged.
func (h *History) Silence(since time.Time) (longest time.Duration) {
	last, now := h.now()-time.Since(since), h.now()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, op := range h.ops { // in the order of their ends, but for those without
		at := time.Duration(op.Return)
		if op.Input.(call).verb == "get" || !op.Output.(reply).acked() || at < last {
			continue
		}
		longest, last = max(longest, at-last), at
	}
	return max(longest, now-last)
}

// Check fails t if it is not the history of one store. Its clients have ended.
func (h *History) Check(t testing.TB) {
	t.Helper()
	unknown := 0
	for _, op := range h.ops {
		if op.Output.(reply).unknown {
			unknown++
		}
	}
	t.Logf("%d calls, %d writes acknowledged, %d calls of unknown end", len(h.ops), h.writes, unknown)
	for _, part := range objects.Partition(h.ops) {
		got := porcupine.CheckOperationsTimeout(objects, part, time.Minute)
		if got == porcupine.Ok {
			continue
		}
		t.Errorf("the history of %s is %s", part[0].Input.(call).name, got)
		slices.SortFunc(part, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
		for _, op := range part {
			until := "…"
			if op.Return < math.MaxInt64 {
				until = time.Duration(op.Return).Round(time.Millisecond).String()
			}
			t.Logf("%s to %s: %s", time.Duration(op.Call).Round(time.Millisecond), until, objects.DescribeOperation(op.Input, op.Output))
		}
		return
	}
}

// NothingLost fails t if something acknowledged is not there. cl asks any server.
func (h *History) NothingLost(t testing.TB, cl *client.Client) {
	t.Helper()
	all, _, err := client.Of(cl, api.Tokens).List(t.Context(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, o := range all {
		have[o.Meta.Name] = true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range h.kept {
		if !have[name] {
			t.Errorf("%s was acknowledged, and is lost", name)
		}
	}
	t.Logf("%d objects that were to stay are there", len(h.kept))
}
