package testcluster

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// moving is a registry whose tags mean another image each time.
type moving struct{ asked atomic.Int64 }

func (r *moving) Digest(context.Context, string, string, string) (string, error) {
	return fmt.Sprintf("sha256:%064x", r.asked.Add(1)), nil
}

// What one server found when it was asked for a plan is what another writes.
func TestAnyServerWritesTheDigestThatWasPlanned(t *testing.T) {
	t.Parallel()
	r := new(moving)
	c := Start(t, Config{Servers: 2, Registry: r})
	one, other := c.ClientOf(c.URLs()[0]), c.ClientOf(c.URLs()[1])
	app := &api.App{Kind: "App", Meta: api.Meta{Name: "web", Namespace: "default"}}
	app.Spec.Image = "team/web:1"
	var p api.WritePlan
	if err := one.Call(t.Context(), http.MethodPost, client.Path(api.Apps.Info(), "default", "web")+"/plan", nil, app, &p); err != nil {
		t.Fatal(err)
	}
	a, err := client.Of(other, api.Apps).Create(t.Context(), app)
	if err != nil {
		t.Fatal(err)
	}
	if p.Images["team/web:1"] == "" || a.Effective.Image != "team/web:1@"+p.Images["team/web:1"] {
		t.Errorf("planned %v and wrote %s", p.Images, a.Effective.Image)
	}
	app.Meta.Name = "next"
	if a, err = client.Of(one, api.Apps).Create(t.Context(), app); err != nil || a.Effective.Image == "team/web:1@"+p.Images["team/web:1"] {
		t.Errorf("without a plan: %s, asked %d times (%v)", a.Effective.Image, r.asked.Load(), err)
	}
}
