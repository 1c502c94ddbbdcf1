package provider

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"reflect"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// newSecret returns clusterd_secret:
//
//	resource "clusterd_secret" "db" {
//	  name     = "db"
//	  data_wo  = { url = var.database_url }
//	  generate = { password = { length = 40 } }
//	}
//
// Values are in no plan and no state: they are written, or made by the cluster,
// and state has the hash of the version they are. Whether the configuration has
// other values than the cluster is asked of the cluster, which alone can tell.
func newSecret() resource.Resource {
	return &kindResource[*api.Secret]{
		kind:   api.Secrets,
		rename: map[string]string{"data": dataWO},
		options: map[string]schema.Attribute{
			"wait": waitForApps,
			dataWO: schema.MapAttribute{Optional: true, WriteOnly: true, ElementType: types.StringType,
				MarkdownDescription: "Values by key: all of them, those that are left out are gone. They go to the cluster, and neither into a plan nor into state; it takes Terraform 1.11. Other values than the cluster has are found by each plan."},
			dataWO + "_version": schema.NumberAttribute{Optional: true,
				MarkdownDescription: "Any number. When it is set, it alone decides: `data_wo` is written when it changes, and not looked at otherwise. For values that are new on every run."},
			"hash": schema.StringAttribute{Computed: true,
				MarkdownDescription: "Names the version of the values, and tells nothing about them."},
		},
		hidden: concealed{},
		follow: followVersion(func(s *api.Secret) string { return s.Spec.Hash }),
	}
}

const dataWO = "data_wo"

// concealed handles what a secret's plan must not contain.
type concealed struct{}

// plan decides whether the hash stays: it does if neither the values nor the way
// to make them change.
func (concealed) plan(ctx context.Context, r *secretResource, plan, prior, config values, diags *diag.Diagnostics) { //nolint:unused // used as a hidden; the linter does not follow it through generics
	unknown := tftypes.NewValue(tftypes.String, tftypes.UnknownValue)
	plan["hash"] = unknown
	was, _ := r.object(prior)
	o, rd := r.object(config)
	o.Meta.Namespace = was.Meta.Namespace
	moved := prior == nil || was.Meta.Name != o.Meta.Name || !plan["namespace"].Equal(prior["namespace"])
	switch {
	case moved || !isSet(prior["hash"]) || len(rd.unknown) > 0:
	case !maps.EqualFunc(was.Spec.Generate, o.Spec.Generate, api.Generate.Same):
	case !isSet(config[dataWO]), isSet(config[dataWO+"_version"]) && config[dataWO+"_version"].Equal(prior[dataWO+"_version"]):
		plan["hash"] = prior["hash"]
	case isSet(config[dataWO+"_version"]) && isSet(prior[dataWO+"_version"]), r.cluster.client == nil:
	default:
		now, err := r.wouldBe(ctx, o)
		if err != nil {
			r.addPlanError(diags, err)
		}
		if err != nil || now == was.Spec.Hash {
			plan["hash"] = prior["hash"]
		}
	}
}

// complete adds to what a plan declares the values it does not have.
func (concealed) complete(o *api.Secret, plan, prior, config values) { //nolint:unused // used as a hidden; the linter does not follow it through generics
	if isSet(plan["hash"]) {
		return // nothing changes: the version stays
	}
	o.Spec.Hash = ""
	rd := &reader{}
	rd.expand(config[dataWO], reflect.ValueOf(&o.Spec.Data).Elem(), path.Root(dataWO))
	if len(o.Spec.Data) == 0 {
		o.Spec.Hash, _ = prior.text("hash") // other values are generated, those there are stay
	}
}

type secretResource = kindResource[*api.Secret] //nolint:unused // used as a hidden; the linter does not follow it through generics

// wouldBe asks which version the values of o are. The cluster keeps nothing of
// the question.
func (r *kindResource[O]) wouldBe(ctx context.Context, o O) (hash string, err error) { //nolint:unused // used as a hidden; the linter does not follow it through generics
	body, err := json.Marshal(o)
	if err != nil {
		return "", err
	}
	err = r.cluster.ask(ctx, func(ctx context.Context) error {
		resp, err := r.cluster.client.Do(ctx, client.Request{
			Method: http.MethodPut, Path: client.Path(r.kind.Info(), o.GetMeta().Namespace, o.GetMeta().Name),
			Query: url.Values{"dry_run": {"true"}}, Body: body,
		})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var now struct{ Spec struct{ Hash string } }
		err = json.NewDecoder(resp.Body).Decode(&now)
		hash = now.Spec.Hash
		return err
	})
	return hash, err
}
