package dev

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// mirrorKeep is how many builds of the provider stay: lock files of earlier
// `terraform init` runs speak of them.
const mirrorKeep = 3

// registries are the hosts by which Terraform and OpenTofu call the provider.
var registries = []string{"registry.terraform.io", "registry.opentofu.org"}

// mirror puts the built provider where Terraform finds it without a network.
// Every build gets a version of its own, 0.1.<time>: a lock file then never
// says that a binary has changed under its version.
func mirror(dir, provider string, now time.Time) (version string, err error) {
	sum, err := hashFile(provider)
	if err != nil {
		return "", fmt.Errorf("the provider is not beside clusterd: run make build (%w)", err)
	}
	platform := runtime.GOOS + "_" + runtime.GOARCH
	home := func(host, version string) string {
		return filepath.Join(dir, host, "clusterd", "clusterd", version, platform)
	}
	versions := mirrored(filepath.Join(dir, registries[0], "clusterd", "clusterd"))
	for _, v := range slices.Backward(versions) {
		have, err := hashFile(filepath.Join(home(registries[0], v), "terraform-provider-clusterd_v"+v))
		if err == nil && bytes.Equal(have, sum) && v == versions[len(versions)-1] {
			return v, nil
		}
	}
	version = fmt.Sprintf("0.1.%d", now.Unix())
	for _, host := range registries {
		to := filepath.Join(home(host, version), "terraform-provider-clusterd_v"+version)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return "", err
		}
		if err := copyFile(provider, to); err != nil {
			return "", err
		}
		for i := 0; i < len(versions)-mirrorKeep+1; i++ {
			if err := os.RemoveAll(filepath.Dir(home(host, versions[i]))); err != nil {
				return "", err
			}
		}
	}
	return version, nil
}

// mirrored lists the versions below dir, oldest first.
func mirrored(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	build := func(v string) int {
		n, _ := strconv.Atoi(strings.TrimPrefix(v, "0.1."))
		return n
	}
	var out []string
	for _, e := range entries {
		if build(e.Name()) > 0 {
			out = append(out, e.Name())
		}
	}
	slices.SortFunc(out, func(a, b string) int { return build(a) - build(b) })
	return out
}

func hashFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to+".part", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	return os.Rename(to+".part", to)
}

// cliConfig is the Terraform CLI configuration that uses the mirror for our
// provider, and the registry for all others.
func cliConfig(mirror string) string {
	var ours []string
	for _, host := range registries {
		ours = append(ours, strconv.Quote(host+"/clusterd/*"))
	}
	list := "[" + strings.Join(ours, ", ") + "]"
	return fmt.Sprintf(`# Made by clusterd dev: terraform uses the provider that was built here.
disable_checkpoint = true

provider_installation {
  filesystem_mirror {
    path    = %q
    include = %s
  }
  direct {
    exclude = %s
  }
}
`, mirror, list, list)
}

// exports renders names and values for a shell's eval.
func exports(namesAndValues ...string) string {
	var b strings.Builder
	for i := 0; i < len(namesAndValues); i += 2 {
		fmt.Fprintf(&b, "export %s='%s'\n", namesAndValues[i], strings.ReplaceAll(namesAndValues[i+1], "'", `'\''`))
	}
	return b.String()
}
