package pod

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/content"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// Contents has what pods use of configs and secrets.
type Contents interface {
	// Of returns all that a pod uses; what the node does not have is fetched.
	Of(ctx context.Context, p *api.Pod) (content.Values, error)
	// Known is what the node has of it already.
	Known(p *api.Pod) content.Values
	// Forget removes what a pod used.
	Forget(uid string) error
}

// errLacks: a version has not got what the container needs, and never will.
var errLacks = errors.New("the pod lacks")

// contents returns the variables and files that a container has from configs
// and secrets, and files written out in its spec.
func (w *worker) contents(ctx context.Context, name string) (env []string, mounts []runtime.Mount, err error) {
	c := w.pod.Spec.All()[name]
	if len(c.Secrets)+len(c.Configs)+len(c.Files) == 0 {
		return nil, nil, nil
	}
	var values content.Values
	if w.cfg.Contents != nil {
		if values, err = w.cfg.Contents.Of(ctx, &w.pod); err != nil {
			return nil, nil, err
		}
	}
	get := func(kind, ref string) (string, error) {
		name, key := api.ContentKey(ref)
		v, ok := values[kind+"/"+name][key]
		if !ok {
			return "", fmt.Errorf("%w: %s %s has no key %s", errLacks, kind, name, key)
		}
		return v, nil
	}
	for _, from := range []struct {
		kind string
		refs map[string]string
	}{{"config", c.Configs}, {"secret", c.Secrets}} {
		for _, k := range slices.Sorted(maps.Keys(from.refs)) {
			v, err := get(from.kind, from.refs[k])
			if err != nil {
				return nil, nil, err
			}
			env = append(env, k+"="+v)
		}
	}
	for i, path := range slices.Sorted(maps.Keys(c.Files)) {
		f := c.Files[path]
		text := f.Content
		switch {
		case f.Secret != "":
			text, err = get("secret", f.Secret)
		case f.Config != "":
			text, err = get("config", f.Config)
		}
		if err != nil {
			return nil, nil, err
		}
		source, err := w.cfg.Files.put(w.pod.Meta.UID, name+"-"+strconv.Itoa(i), f, text)
		if err != nil {
			return nil, nil, fmt.Errorf("file %s: %w", path, err)
		}
		if source != "" {
			mounts = append(mounts, runtime.Mount{Source: source, Target: path, ReadOnly: true, Owned: true})
		}
	}
	return env, mounts, nil
}

// put writes one file of a container and returns where: those of secrets lie in
// memory.
func (f *Files) put(uid, name string, file api.File, text string) (path string, err error) {
	if f == nil {
		return "", nil
	}
	dir := filepath.Join(f.Dir, uid, "files")
	if file.Secret != "" {
		dir = filepath.Join(f.Memory, uid)
	}
	mode, err := strconv.ParseUint(cmp.Or(file.Mode, "0444"), 8, 32)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", err
	}
	// In place: a running container may have the file itself mounted.
	path = filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return "", err
	}
	return path, os.Chmod(path, os.FileMode(mode))
}

// leastSecret is the length below which a value is too common a word to be
// looked for in logs.
const leastSecret = 6

// redact takes the values of the pod's secrets out of what its containers wrote:
// the lines end up where the secrets must not.
func (w *worker) redact(lines []string) []string {
	if w.cfg.Contents == nil || len(lines) == 0 {
		return lines
	}
	var values []string
	for of, keys := range w.cfg.Contents.Known(&w.pod) {
		if !strings.HasPrefix(of, "secret/") {
			continue
		}
		for _, v := range keys {
			for line := range strings.Lines(v) {
				if line = strings.TrimSpace(line); len(line) >= leastSecret {
					values = append(values, line)
				}
			}
		}
	}
	// The longest first: one may be a part of another.
	slices.SortFunc(values, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	for i, line := range lines {
		for _, v := range values {
			line = strings.ReplaceAll(line, v, "(secret)")
		}
		lines[i] = line
	}
	return lines
}
