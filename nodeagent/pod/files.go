package pod

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// Files are what the containers of a pod find in /etc to know their own name
// and whom to ask for others.
type Files struct {
	Dir    string                           // a directory per pod below it
	Memory string                           // likewise, for what must not be on disk
	Hosts  func(hostname, ip string) string // /etc/hosts
	Resolv func(namespace string) string    // /etc/resolv.conf
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
	hostname := p.Spec.Hostname(p.Meta.Name)
	var mounts []runtime.Mount
	for _, file := range []struct{ name, text string }{
		{"hostname", hostname + "\n"},
		{"hosts", f.Hosts(hostname, ip)},
		{"resolv.conf", f.Resolv(p.Meta.Namespace)},
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
	err := os.RemoveAll(filepath.Join(f.Dir, uid))
	if f.Memory != "" {
		err = errors.Join(err, os.RemoveAll(filepath.Join(f.Memory, uid)))
	}
	return err
}
