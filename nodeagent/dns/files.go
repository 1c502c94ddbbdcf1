//go:build linux

package dns

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// ResolvConf renders /etc/resolv.conf for the pods of a namespace: short names
// of services work, in the pod's own namespace without it.
func ResolvConf(namespace string, server netip.Addr) string {
	domain := api.ClusterDomain
	return fmt.Sprintf("search %s.svc.%s svc.%s %s\nnameserver %s\noptions ndots:5\n", namespace, domain, domain, domain, server)
}

// Hosts renders /etc/hosts for a pod.
func Hosts(hostname string, ip netip.Addr) string {
	var out strings.Builder
	out.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	fmt.Fprintf(&out, "%s\t%s\n", ip, hostname)
	return out.String()
}
