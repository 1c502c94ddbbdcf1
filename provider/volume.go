package provider

import (
	"github.com/hashicorp/terraform-plugin-framework/resource"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// newVolume returns clusterd_volume. Its deletion waits until its node has
// removed the data.
func newVolume() resource.Resource {
	return &kindResource[*api.Volume]{
		kind: api.Volumes,
		blocked: func(v *api.Volume) string {
			if v.Status.Data.Message != "" {
				return v.Status.Data.Message
			}
			return v.Status.Message
		},
	}
}
