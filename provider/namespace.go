package provider

import (
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/resource"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// newNamespace returns clusterd_namespace. Its deletion takes along what is in
// it, and waits until that is gone.
func newNamespace() resource.Resource {
	return &kindResource[*api.Namespace]{
		kind: api.Namespaces,
		blocked: func(n *api.Namespace) string {
			if len(n.Status.Blockers) == 0 {
				return n.Status.Message
			}
			return "it still has " + strings.Join(n.Status.Blockers, ", ") + " (" + n.Status.Message + ")"
		},
	}
}
