package pod

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// Files are what the containers of a pod find in /etc to know their own name
// and whom to ask for others.
type Files struct {
	Dir        string // a directory per pod below it
	Nameserver string
}

// write makes the files of a pod and returns how containers see them.
func (f *Files) write(p *api.Pod, ip string) ([]runtime.Mount, error) {
	if f == nil {
		return nil, nil
	}
	dir := filepath.Join(f.Dir, p.Meta.UID)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("files of pod %s: %w", p.Meta.Name, err)
	}
	var mounts []runtime.Mount
	for _, file := range []struct{ name, text string }{
		{"hostname", p.Meta.Name + "\n"},
		{"hosts", hosts(p.Meta.Name, ip)},
		{"resolv.conf", resolvConf(p.Meta.Namespace, f.Nameserver)},
	} {
		path := filepath.Join(dir, file.name)
		// In place: running containers have the file itself mounted.
		if err := os.WriteFile(path, []byte(file.text), 0o644); err != nil {
			return nil, fmt.Errorf("files of pod %s: %w", p.Meta.Name, err)
		}
		mounts = append(mounts, runtime.Mount{Source: path, Target: "/etc/" + file.name, ReadOnly: true})
	}
	return mounts, nil
}

func (f *Files) remove(uid string) error {
	if f == nil {
		return nil
	}
	return os.RemoveAll(filepath.Join(f.Dir, uid))
}

func hosts(name, ip string) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	if ip != "" {
		fmt.Fprintf(&b, "%s\t%s\n", ip, name)
	}
	return b.String()
}

// resolvConf lets a pod say web for a service of its own namespace, and
// web.shop for one of another.
func resolvConf(namespace, server string) string {
	return fmt.Sprintf("nameserver %s\nsearch %s.svc.%s svc.%[3]s %[3]s\noptions ndots:5\n", server, namespace, api.ClusterDomain)
}
