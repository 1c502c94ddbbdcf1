package agent

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// control is the control plane as pods see it.
type control struct{ c *client.Client }

func (k control) PutStatus(ctx context.Context, p *api.Pod) (*api.Pod, error) {
	return client.Of(k.c, api.Pods).PutStatus(ctx, p)
}

// drainWait is how long the proxies may take.
const drainWait = 2 * time.Second

func (k control) Drained(ctx context.Context, p *api.Pod) error {
	ctx, cancel := context.WithTimeout(ctx, drainWait+time.Second)
	defer cancel()
	var out api.DrainedAnswer
	path := client.Path(api.Pods.Info(), p.Meta.Namespace, p.Meta.Name) + "/drained"
	return k.c.Call(ctx, http.MethodGet, path, url.Values{"timeout": {drainWait.String()}}, nil, &out)
}

func (k control) Record(ctx context.Context, subject api.Ref, e api.Event) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// Reports are best effort: what they tell is in the pod's status too.
	_ = k.c.Record(ctx, subject, e)
}
