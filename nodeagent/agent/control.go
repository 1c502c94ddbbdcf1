package agent

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/image"
)

// control is the control plane as pods see it.
type control struct{ c *client.Client }

// reporting is control, and the way of statuses to it.
type reporting struct {
	control
	statuses *statuses
}

func (r reporting) PutStatus(ctx context.Context, p *api.Pod) (*api.Pod, error) {
	return r.statuses.put(ctx, p)
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

// byHand asks for an image that was loaded by hand into other nodes.
func (k control) byHand(ctx context.Context, reference string) (*image.Archive, error) {
	all, err := k.images(ctx)
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		if !names(reference, i.Spec) {
			continue
		}
		resp, err := k.c.Do(ctx, client.Request{Method: http.MethodGet, Path: client.Path(api.Images.Info(), "", i.Meta.Name) + "/archive"})
		if err != nil {
			return nil, err
		}
		return &image.Archive{Reference: i.Spec.Reference, Digest: i.Spec.Digest, Size: i.Spec.Size, Body: resp.Body}, nil
	}
	return nil, nil
}

func (k control) images(ctx context.Context) ([]*api.Image, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	all, _, err := client.Of(k.c, api.Images).List(ctx, "", nil)
	return all, err
}

// names reports whether a pod that asks for reference means this image.
func names(reference string, i api.ImageSpec) bool {
	want, err := api.ParseImage(reference)
	if err != nil {
		return false
	}
	if want.Digest == "" {
		return want.String() == i.Reference
	}
	have, err := api.ParseImage(i.Reference)
	return err == nil && want.Digest == i.Digest && want.Registry == have.Registry && want.Repository == have.Repository
}

func (k control) Record(ctx context.Context, subject api.Ref, e api.Event) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// Reports are best effort: what they tell is in the pod's status too.
	_ = k.c.Record(ctx, subject, e)
}
