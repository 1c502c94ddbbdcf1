package pod

import (
	"reflect"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// TestSecurity: what a spec says is what the runtime is asked for.
func TestSecurity(t *testing.T) {
	yes, no := true, false
	for _, c := range []struct {
		says *api.Security
		want runtime.Security
	}{
		{nil, runtime.Security{}},
		{&api.Security{NoNewPrivileges: &yes, Seccomp: "default"}, runtime.Security{}},
		{&api.Security{User: "1:2", ReadOnlyRoot: &yes, NoNewPrivileges: &no, Seccomp: "unconfined", Privileged: &yes, Devices: []string{"/dev/fuse"}},
			runtime.Security{User: "1:2", ReadOnlyRoot: true, NewRights: true, Unconfined: true, Privileged: true, Devices: []string{"/dev/fuse"}}},
		{&api.Security{Drop: []string{"ALL"}}, runtime.Security{Capabilities: []string{}}},
		{&api.Security{Drop: []string{"ALL"}, Add: []string{"CAP_NET_ADMIN"}}, runtime.Security{Capabilities: []string{"NET_ADMIN"}, Ambient: []string{"NET_ADMIN"}}},
	} {
		if got := security(c.says); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%+v: %+v, want %+v", c.says, got, c.want)
		}
	}
}

// TestLimits: memory is held to what is reserved unless limits says more.
func TestLimits(t *testing.T) {
	n := 7
	if got := limits(api.Container{Memory: "64Mi"}); got.Memory != "64Mi" || got.CPU != "" || *got.PIDs != api.DefaultPIDs {
		t.Errorf("without limits: %+v", got)
	}
	if got := limits(api.Container{Memory: "64Mi", Limits: &api.Limits{Memory: "1Gi", CPU: "2", PIDs: &n}}); got.Memory != "1Gi" || got.CPU != "2" || *got.PIDs != 7 {
		t.Errorf("with limits: %+v", got)
	}
}
