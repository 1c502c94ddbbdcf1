package apiserver

import (
	"strings"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

func TestWithin(t *testing.T) {
	for _, c := range []struct {
		path, dir string
		want      bool
	}{
		{"/var/log", "/var/log", true},
		{"/var/log/web", "/var/log", true},
		{"/var/logs", "/var/log", false},
		{"/var", "/var/log", false},
		{"/etc", "/", true},
	} {
		if got := within(c.path, []string{"/opt", c.dir}); got != c.want {
			t.Errorf("%s in %s: %v", c.path, c.dir, got)
		}
	}
}

// TestPowers: each thing beyond the usual is refused at its field, by the name
// of the namespace and with the way out, and taken once the namespace gives it.
func TestPowers(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		set := func(powers string) {
			t.Helper()
			if code, got := call(s, system, "PUT", "/v1/namespaces/default", `{"spec":{"powers":`+powers+`}}`); code >= 300 {
				t.Fatal(got)
			}
		}
		for _, one := range []struct{ spec, path, powers string }{
			{`"security":{"privileged":true}`, "spec.security.privileged", `{"privileged":true}`},
			{`"security":{"seccomp":"unconfined"}`, "spec.security.seccomp", `{"privileged":true}`},
			{`"security":{"add":["CHOWN","CAP_NET_ADMIN"]}`, "spec.security.add[1]", `{"capabilities":["NET_ADMIN"]}`},
			{`"security":{"devices":["/dev/fuse"]}`, "spec.security.devices[0]", `{"devices":["/dev/fuse"]}`},
			{`"host_network":true`, "spec.host_network", `{"host_network":true}`},
			{`"mounts":{"/logs":{"host":"/var/log/web"}}`, `spec.mounts[\"/logs\"].host`, `{"host_paths":["/var/log"]}`},
			{`"sidecars":{"log":{"image":"log:1","security":{"privileged":true}}}`, "spec.sidecars.log.security.privileged", `{"privileged":true}`},
			{`"init":{"log":{"mounts":{"/logs":{"host":"/var/logs"}}}}`, `spec.init.log.mounts[\"/logs\"].host`, `{"host_paths":["/var/logs"]}`},
		} {
			set(`{"host_paths":["/var/lib"]}`)
			write := func() (int, string) {
				return call(s, system, "PUT", "/v1/namespaces/default/apps/web?dry_run=true", `{"spec":{"image":"nginx:1",`+one.spec+`}}`)
			}
			if code, got := write(); code != 422 || !strings.Contains(got, `"path":"`+one.path+`"`) || !strings.Contains(got, "namespace default does not allow it") || !strings.Contains(got, "have powers = {") {
				t.Errorf("%s: %d %s", one.spec, code, got)
			}
			set(one.powers)
			if code, got := write(); code >= 300 {
				t.Errorf("%s with %s: %d %s", one.spec, one.powers, code, got)
			}
		}
		service := func() (int, string) {
			return call(s, system, "PUT", "/v1/namespaces/default/services/web", `{"spec":{"app":"web","ports":{"http":{"port":80,"node_port":30080}}}}`)
		}
		set(`{"node_ports":false}`)
		if code, got := service(); code != 422 || !strings.Contains(got, `"path":"spec.ports.http.node_port"`) {
			t.Errorf("node port: %d %s", code, got)
		}
		set(`{}`)
		if code, got := service(); code >= 300 {
			t.Errorf("node port: %d %s", code, got)
		}
		pod := &api.Pod{Meta: api.Meta{Namespace: "default", Name: "own"}}
		pod.Spec.Container, pod.Spec.HostNetwork = api.Container{Image: "nginx:1"}, new(bool)
		*pod.Spec.HostNetwork = true
		user := client.InProcess(s.InProcess(Identity{Role: RoleUser, Name: "ada"}))
		if _, err := client.Of(user, api.Pods).Create(t.Context(), pod); !api.Is(err, api.Invalid) {
			t.Errorf("a user's own pod: %v", err)
		}
	})
}
