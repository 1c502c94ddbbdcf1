package provider

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/resource"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// nodeWaits are the timeouts of a node.
type nodeWaits struct {
	Create api.Duration `json:"create,omitempty" doc:"Until the machine has joined and is ready, and is drained if it is to be." default:"30m"`
	Update api.Duration `json:"update,omitempty" doc:"Until it is drained, if it is to be." default:"30m"`
	Delete api.Duration `json:"delete,omitempty" doc:"Until no pod is left on it." default:"10m"`
}

// newNode returns clusterd_node: a machine that joins by itself, and what its
// operators want of it. Create waits for the machine; destroy drains it and
// then forgets it.
func newNode() resource.Resource {
	return &kindResource[*api.Node]{
		kind:   api.Nodes,
		limits: reflect.TypeFor[nodeWaits](),
		facts: map[string]fact[*api.Node]{
			"address": {doc: "Where other nodes reach it.", of: func(n *api.Node) string { return n.Status.Address }},
		},
		obtain: awaitNode,
		follow: awaitDrained,
		retire: drainFirst,
	}
}

// awaitNode waits until the machine has joined and is ready, and writes what is
// wanted of it.
func awaitNode(ctx context.Context, r *kindResource[*api.Node], o *api.Node) (*api.Node, error) {
	last, ready := "no machine of this name has joined: run nodeagent join there", false
	var err error
	for err == nil && !ready { // a watch ends with an object that is not there
		err = r.watch(ctx, &api.Node{Meta: api.Meta{Name: o.Meta.Name}}, func(now *api.Node) bool {
			if now != nil && now.Meta.UID != "" {
				last, ready = fmt.Sprintf("it is %s", now.Status.Health.Verdict), now.Status.Health.Schedulable()
			}
			if ready && now.Status.Address == "" { // gossip is faster than its first report
				last, ready = "nodeagent has not reported where it is reached", false
			}
			return ready
		})
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("it is not ready in time: %s", last)
	case err != nil:
		return nil, err
	}
	return r.adopt(ctx, o)
}

// awaitDrained waits until no pod is left on a node that is to be drained.
func awaitDrained(ctx context.Context, r *kindResource[*api.Node], n *api.Node) *failure {
	if n.Spec.Drain == nil {
		return nil
	}
	last := n
	err := r.watch(ctx, n, func(now *api.Node) bool {
		if now == nil {
			return true
		}
		last = now
		return now.Spec.Drain == nil || now.Status.Drain != nil && now.Status.Drain.Phase == api.DrainDone
	})
	if err == nil {
		return nil
	}
	return &failure{summary: "Node " + n.Meta.Name + ": the drain has not ended", detail: "It goes on in the cluster: " + drainProgress(last)}
}

// drainFirst moves the pods of a node elsewhere before it is forgotten.
func drainFirst(ctx context.Context, r *kindResource[*api.Node], n *api.Node) error {
	for n.Spec.Drain == nil {
		next := *n
		next.Spec.Drain = &api.Drain{}
		now, err := r.objects.Replace(ctx, &next, n.Meta.Generation)
		if api.Is(err, api.Precondition) {
			now, err = r.objects.Get(ctx, "", n.Meta.Name)
		}
		if err != nil {
			return err
		}
		n = now
	}
	if f := awaitDrained(ctx, r, n); f != nil {
		return errors.New(f.detail + "; apply again to go on waiting, or raise timeouts.delete")
	}
	return nil
}

func drainProgress(n *api.Node) string {
	if n.Status.Drain == nil {
		return "the cluster has not begun it"
	}
	return strings.Join(append([]string{n.Status.Drain.Summary()}, n.Status.Drain.Waits...), "\n  ")
}
