package provider

import (
	"cmp"

	"github.com/hashicorp/terraform-plugin-framework/resource"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// newService returns clusterd_service:
//
//	resource "clusterd_service" "web" {
//	  name  = "web"
//	  app   = clusterd_app.web.name
//	  ports = { http = { port = 80, node_port = 30080 } }
//	}
func newService() resource.Resource {
	return &kindResource[api.ServiceSpec, api.ServiceStatus]{
		kind: api.Services,
		facts: map[string]fact[api.ServiceSpec, api.ServiceStatus]{
			"virtual_ip": {
				doc: "The virtual IP the service has: `ip`, or the one the cluster gave it.",
				of:  func(s *api.Service) string { return cmp.Or(s.Effective.IP, s.Spec.IP) },
			},
			"dns_name": {
				doc: "The name pods of the cluster reach the service by.",
				of: func(s *api.Service) string {
					if s.Meta.Name == "" || s.Meta.Namespace == "" {
						return ""
					}
					return api.ServiceDNSName(s.Meta.Namespace, s.Meta.Name)
				},
			},
		},
		needs: map[string][]string{
			"ports.*.port":      {"ports.*.protocol"},
			"ports.*.node_port": {"ports.*.protocol"},
		},
	}
}
