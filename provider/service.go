package provider

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/terraform-plugin-framework/resource"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// newService returns clusterd_service:
//
//	resource "clusterd_service" "web" {
//	  name  = "web"
//	  app   = clusterd_app.web.name
//	  ports = { http = { port = 80, node_port = 30080 } }
//	}
func newService() resource.Resource {
	return &kindResource[*api.Service]{
		kind: api.Services,
		facts: map[string]fact[*api.Service]{
			"virtual_ip": {
				doc: "The virtual IP the service has: `ip`, or the one the cluster gave it.",
				of:  func(s *api.Service) string { return cmp.Or(s.Effective.IP, s.Spec.IP) },
				by:  "ip",
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
		doubts: leadsNowhere,
		needs: map[string][]string{
			"ports.*.port":      {"ports.*.protocol"},
			"ports.*.node_port": {"ports.*.protocol"},
		},
	}
}

type serviceResource = kindResource[*api.Service]

// leadsNowhere tells of a service that cannot have an endpoint: the app, or a
// port of it, does not exist. That is no error, for both may be made later.
func leadsNowhere(ctx context.Context, r *serviceResource, s *api.Service) *failure {
	app, err := client.Of(r.cluster.client, api.Apps).Get(ctx, s.Meta.Namespace, s.Effective.App)
	if api.Is(err, api.NotFound) {
		return &failure{
			summary: fmt.Sprintf("Service %s leads nowhere: there is no app %s in namespace %s", id(&s.Meta), s.Effective.App, s.Meta.Namespace),
			detail:  "It answers once the app exists. If a clusterd_app of this configuration makes it, refer to that: app = clusterd_app." + s.Effective.App + ".name.",
		}
	}
	if err != nil {
		return nil // the service is written; what reads it will say what is wrong
	}
	ports := map[string]api.Port{}
	for _, c := range app.Effective.Template().Containers() {
		maps.Copy(ports, c.Ports)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Effective.Ports)) {
		if _, err := s.Effective.TargetPort(name, ports); err != nil {
			return &failure{
				summary: fmt.Sprintf("Service %s: port %s leads nowhere", id(&s.Meta), name),
				detail:  fmt.Sprintf("App %s: %s.", s.Effective.App, err),
			}
		}
	}
	return nil
}
