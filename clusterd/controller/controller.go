// Package controller holds the loops of the control plane, one file each: app,
// job, service, node, drain, namespace, content, token.
//
// Each is level-triggered: it reads from caches, makes a plan with a pure
// function and carries it out through the API. A plan prints like a Terraform
// plan; that text is the debug log and the golden test.
//
// Invariants: a plan is a value; it is made from the cluster as it was after
// the loop's own last write; its writes happen in one transaction that also
// demands that what it was made for has not changed; it can be carried out
// half, twice or not at all, and the next plan leads to the same end.
package controller

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/reconcile"
)

// Config is what the loops work with. The client's writes must be fenced where
// more than one server may lead.
type Config struct {
	Client  *client.Client
	Caches  *reconcile.Caches // run by the caller, shared with the scheduler
	Witness Witness
	Leases  Leases
	Now     func() time.Time // the clock schedules are read by; nil: the machine's
	Log     hclog.Logger
}

// Run runs all loops until ctx ends. Their end is not an error.
func Run(ctx context.Context, cfg Config) error {
	var wg sync.WaitGroup
	nodes := newNodes(cfg)
	for _, l := range []reconcile.Loop{newApps(cfg).loop(), newJobs(cfg).loop(), newServices(cfg).loop(), newHeadless(cfg).loop(), newNamespaces(cfg).loop(), newVolumes(cfg).loop(), newContents(cfg).loop(), newTokens(cfg).loop(), nodes.loop(), newDrains(cfg).loop()} {
		wg.Go(func() { l.Run(ctx, cfg.Log) })
	}
	wg.Wait()
	return nil
}

// write is one write of a batch, and what it writes to.
type write struct {
	ref api.Ref
	op  api.BatchWrite
}

// put creates an object or replaces its spec.
func put[O api.Any](k *api.Kind[O], o O) write {
	return write{refOf(k, o), api.BatchWrite{Put: whole(k, o)}}
}

// create is put for an object that must not exist yet.
func create[O api.Any](k *api.Kind[O], o O) write {
	return write{refOf(k, o), api.BatchWrite{Create: whole(k, o)}}
}

// status replaces an object's status.
func status[O api.Any](k *api.Kind[O], o O) write {
	return write{refOf(k, o), api.BatchWrite{Status: whole(k, o)}}
}

// remove asks for an object's deletion, or with final does it.
func remove(ref api.Ref, uid string, final bool) write {
	return write{ref, api.BatchWrite{Delete: &api.BatchDelete{Ref: ref, UID: uid, Final: final}}}
}

// departures are the writes for pods that go: those of which nothing is left are
// removed for good, the others are asked to stop.
func departures(finalize []*api.Pod, asked []removal) (ops []write) {
	for _, pod := range finalize {
		ops = append(ops, remove(pod.Ref(), pod.Meta.UID, true))
	}
	for _, r := range asked {
		ops = append(ops, remove(r.pod.Ref(), r.pod.Meta.UID, false))
	}
	return ops
}

// record tells, in the log and as events, what a plan that was carried out meant.
func record(ctx context.Context, c *client.Client, log hclog.Logger, ref api.Ref, events []api.Event) {
	for _, e := range events {
		log.Info(strings.ReplaceAll(e.Reason, "_", " "), "ref", ref, "message", e.Message)
		_ = c.Record(ctx, ref, e)
	}
}

func refOf[O api.Any](k *api.Kind[O], o O) api.Ref {
	m := o.GetMeta()
	return k.Ref(m.Namespace, m.Name)
}

func whole[O api.Any](k *api.Kind[O], o O) json.RawMessage {
	return marshal(o.WithKind(k.Name))
}

func marshal(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // every api type marshals
	}
	return b
}

// chunk is how many writes go into one transaction: each touches more keys
// than its own.
const chunk = api.MaxBatchWrites / 2

// batches carries out writes of which there may be more than one transaction
// takes, in order: what must not be seen before the rest comes last. It notes
// what was written at which revision.
func batches(ctx context.Context, c *client.Client, demand []api.BatchPrecondition, writes []write, note func(api.Ref, int64)) error {
	for part := range slices.Chunk(writes, chunk) {
		ops := make([]api.BatchWrite, len(part))
		for i, w := range part {
			ops[i] = w.op
		}
		revision, err := c.BatchIf(ctx, demand, ops)
		if err != nil {
			return overQuota(part, err)
		}
		for _, w := range part {
			note(w.ref, revision)
		}
	}
	return nil
}

// gone reports whether err says that the object does not exist, or not as the
// incarnation that was meant.
func gone(err error) bool { return api.Is(err, api.NotFound) || api.Is(err, api.Precondition) }

// absent returns nil if the API itself has no such object. One that only a cache
// does not show may be there: the cache that shows what belongs to it is newer.
func absent[O api.Any](ctx context.Context, k *client.Kind[O], namespace, name string) error {
	_, err := k.Get(ctx, namespace, name)
	switch {
	case api.Is(err, api.NotFound):
		return nil
	case err == nil:
		return errStale
	}
	return err
}

// sooner is the earlier of two delays after which to run again; 0 is never.
func sooner(a, b time.Duration) time.Duration {
	if b > 0 && (a <= 0 || b < a) {
		return b
	}
	return a
}

// errStale says that a cache is behind the cluster: look again in a moment.
var errStale = api.Errorf(api.Precondition, "the cache does not show the object as it is yet")
