package provider

import (
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// newApp returns clusterd_app: every field of api.AppSpec under its own name,
//
//	resource "clusterd_app" "web" {
//	  name     = "web"
//	  image    = "nginx:1.27"
//	  replicas = 3
//	  ports    = { http = 80 }
//	  health   = { http = "/" }
//	  sidecars = { log = { image = "vector:0.40" } }
//	}
//
// and apply returns once its rollout has ended, one way or the other.
func newApp() resource.Resource {
	return &kindResource[*api.App]{
		kind: api.Apps,
		options: map[string]schema.Attribute{
			"wait": schema.BoolAttribute{Optional: true,
				MarkdownDescription: "Wait until the rollout has ended, and fail with its cause if it failed. Default: `true`."},
			"on_create_failure": onCreateFailure("app whose first rollout failed"),
		},
		check: checkCreateFailure,
		needs: map[string][]string{
			"health.http":          {"health.tcp"},
			"health.port":          {"ports"},
			"update.min_available": {"replicas", "update.surge"},
			"init.*.image":         {"image"},
		},
		follow:  followRollout,
		planned: true,
		ails:    stuck,
		blocked: func(a *api.App) string {
			return a.Status.Message
		},
	}
}

// onCreateFailure is the attribute of the same name.
func onCreateFailure(of string) schema.Attribute {
	return schema.StringAttribute{Optional: true,
		MarkdownDescription: "What happens to a new " + of + ". `keep`: it stays with its logs, and the next apply replaces it. `delete`: it is removed at once, for CI. Default: `keep`."}
}

func checkCreateFailure(v values) []fault {
	if s, ok := v.text("on_create_failure"); ok && s != "keep" && s != "delete" {
		return []fault{{path.Root("on_create_failure"), `"` + s + `" is unknown: want keep or delete`}}
	}
	return nil
}
