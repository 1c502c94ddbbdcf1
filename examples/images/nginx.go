package main

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

//go:embed nginx.conf
var nginxConf []byte

//go:embed index.html
var indexHTML string

// colors are what the page of each version looks like.
var colors = map[string]string{"1.0": "#0b7285", "2.0": "#d9480f"}

var nginx = recipe{
	packages: []string{"nginx", "nginx-common"},
	tags:     []string{"1.0", "2.0"},
	furnish: func(root string) error {
		for _, d := range []string{"var/lib/nginx", "var/log/nginx", "srv/www"} {
			if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
				return err
			}
		}
		return os.WriteFile(filepath.Join(root, "etc/nginx/nginx.conf"), nginxConf, 0o644)
	},
	change: func(root, tag string) error {
		html := strings.NewReplacer("VERSION", tag, "COLOR", colors[tag]).Replace(indexHTML)
		if err := os.WriteFile(filepath.Join(root, "srv/www/index.html"), []byte(html), 0o644); err != nil {
			return fmt.Errorf("write the page: %w", err)
		}
		return nil
	},
	config: v1.Config{
		Cmd:          []string{"nginx", "-g", "daemon off;"},
		Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		ExposedPorts: map[string]struct{}{"80/tcp": {}},
		StopSignal:   "SIGQUIT", // finish what is being answered
	},
}
