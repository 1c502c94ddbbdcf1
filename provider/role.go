package provider

import (
	"github.com/hashicorp/terraform-plugin-framework/resource"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// newRole returns clusterd_role: what tokens that have it may do.
func newRole() resource.Resource {
	return &kindResource[*api.Role]{kind: api.Roles}
}
