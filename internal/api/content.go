package api

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
)

// File is a file a container finds: with text, or a key of a config or secret.
type File struct {
	Content string `json:"content,omitempty" doc:"Text of the file."`
	Config  string `json:"config,omitempty" doc:"Name of a config and one of its keys, such as web/nginx.conf."`
	Secret  string `json:"secret,omitempty" doc:"Name of a secret and one of its keys, such as tls/key; the file is in memory only."`
	Mode    string `json:"mode,omitempty" doc:"Permissions in octal; by default 0444, of a secret 0400."`
}

// Mount is storage a container finds.
type Mount struct {
	Volume   string `json:"volume,omitempty" doc:"Name of a volume. Of a stateful app with size: the volumes of its ordinals are called <volume>-<ordinal>."`
	Size     Memory `json:"size,omitempty" doc:"Of a stateful app: make a volume of this size for each ordinal, when it is first needed."`
	Scratch  Memory `json:"scratch,omitempty" doc:"Empty space of this size that ends with the pod; containers of a pod share it by path."`
	Host     string `json:"host,omitempty" doc:"Directory of the node; the namespace must allow it."`
	ReadOnly *bool  `json:"read_only,omitempty" doc:"The container cannot write to it. Default: false."`
}

// contentRE is <name>/<key>.
var contentRE = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?/[A-Za-z0-9._-]{1,253}$`)

// ContentKey splits a reference to a key of a config or secret, such as db/url.
func ContentKey(ref string) (name, key string) {
	name, key, _ = strings.Cut(ref, "/")
	return name, key
}

var modeRE = regexp.MustCompile(`^0?[0-7]{3}$`)

func validateContent(env, secrets, configs map[string]string, files map[string]File, mounts map[string]Mount) error {
	var errs Errors
	for _, from := range []struct {
		field string
		refs  map[string]string
	}{{"secrets", secrets}, {"configs", configs}} {
		for _, k := range sortedKeys(from.refs) {
			at := join(from.field, keyPath(k))
			if !envRE.MatchString(k) {
				errs.Addf(at, "not a variable name: want letters, digits and _, not starting with a digit")
			}
			if !contentRE.MatchString(from.refs[k]) {
				errs.Addf(at, "%q: want the name of one of the namespace's %s and one of its keys, such as db/url", from.refs[k], from.field)
			}
			if _, dup := env[k]; dup {
				errs.Addf(at, "env sets %s too", k)
			}
			if _, dup := secrets[k]; dup && from.field == "configs" {
				errs.Addf(at, "secrets sets %s too", k)
			}
		}
	}
	for _, p := range sortedKeys(files) {
		f, at := files[p], join("files", keyPath(p))
		errs.Add(at, checkContainerPath(p))
		set := 0
		for _, v := range []string{f.Config, f.Secret} {
			if v != "" {
				set++
				if !contentRE.MatchString(v) {
					errs.Addf(at, "%q: want a name and a key, such as web/nginx.conf", v)
				}
			}
		}
		if set > 1 || set == 1 && f.Content != "" {
			errs.Addf(at, "set one of content, config and secret, not several")
		}
		if f.Mode != "" && !modeRE.MatchString(f.Mode) {
			errs.Addf(at+".mode", "%q are not permissions: want three octal digits, such as 0644", f.Mode)
		}
		if _, dup := mounts[p]; dup {
			errs.Addf(at, "a mount has the same path")
		}
	}
	for _, p := range sortedKeys(mounts) {
		m, at := mounts[p], join("mounts", keyPath(p))
		errs.Add(at, checkContainerPath(p))
		set := 0
		for _, v := range []string{m.Volume, string(m.Scratch), m.Host} {
			if v != "" {
				set++
			}
		}
		if set != 1 {
			errs.Addf(at, "set one of volume, scratch and host")
		}
		if m.Volume != "" {
			errs.Add(at+".volume", CheckName(m.Volume))
		}
		errs.Add(at+".scratch", checkSize(m.Scratch))
		errs.Add(at+".size", checkSize(m.Size))
		if m.Size != "" && m.Volume == "" {
			errs.Addf(at+".size", "belongs to volume")
		}
		if m.Host != "" {
			errs.Add(at+".host", checkHostPath(m.Host))
		}
	}
	return errs.Err()
}

// checkContainerPath accepts clean absolute paths that are nobody else's.
func checkContainerPath(p string) error {
	switch {
	case !path.IsAbs(p) || path.Clean(p) != p || p == "/":
		return fmt.Errorf("%q: want an absolute path without . and .., such as /etc/web/web.conf", p)
	case p == "/proc" || p == "/sys" || p == "/dev" || strings.HasPrefix(p, "/proc/") || strings.HasPrefix(p, "/sys/"):
		return fmt.Errorf("%s belongs to the kernel", p)
	}
	return nil
}

// checkHostPath accepts clean absolute paths.
func checkHostPath(p string) error {
	if !path.IsAbs(p) || path.Clean(p) != p {
		return fmt.Errorf("%q: want an absolute path without . and .., such as /var/log", p)
	}
	return nil
}

const minSize = 1 << 20

func checkSize(m Memory) error {
	if m == "" {
		return nil
	}
	n, err := ParseMemory(string(m))
	if err == nil && n < minSize {
		return errors.New("must be at least 1Mi")
	}
	return err
}

func defaultFiles(files map[string]File) map[string]File {
	for p, f := range files {
		mode := "0444"
		if f.Secret != "" {
			mode = "0400"
		}
		f.Mode = cmp.Or(f.Mode, mode)
		files[p] = f
	}
	return files
}
