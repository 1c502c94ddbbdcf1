package agent

import (
	"context"
	"net/http"
	"net/url"
	"strings"
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

// version asks for a version of config/web or secret/db.
func (k control) version(ctx context.Context, namespace, of, hash string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	info, name := api.Configs.Info(), strings.TrimPrefix(of, "config/")
	if secret, ok := strings.CutPrefix(of, "secret/"); ok {
		info, name = api.Secrets.Info(), secret
	}
	var out api.ContentVersion
	err := k.c.Call(ctx, http.MethodGet, client.Path(info, namespace, name)+"/versions/"+hash, nil, nil, &out)
	return out.Data, err
}

func (k control) Record(ctx context.Context, subject api.Ref, e api.Event) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// Reports are best effort: what they tell is in the pod's status too.
	_ = k.c.Record(ctx, subject, e)
}
