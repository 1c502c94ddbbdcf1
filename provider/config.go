package provider

import (
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// newConfig returns clusterd_config:
//
//	resource "clusterd_config" "web" {
//	  name = "web"
//	  data = { log_level = "info" }
//	}
//
// A change of it is a rollout of the apps that use it, which apply follows.
func newConfig() resource.Resource {
	return &kindResource[*api.Config]{
		kind:    api.Configs,
		options: map[string]schema.Attribute{"wait": waitForApps},
		follow: followVersion(func(c *api.Config) string {
			return api.ConfigHash("config/"+c.Meta.Name, c.Spec.Data)
		}),
	}
}

var waitForApps = schema.BoolAttribute{Optional: true,
	MarkdownDescription: "Wait until the apps that use it have rolled out the change, and fail with the cause if one has not. Default: `true`."}
