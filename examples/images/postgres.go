package main

import (
	_ "embed"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

//go:embed postgres-entrypoint
var postgresEntrypoint []byte

var postgres = recipe{
	packages: []string{"postgresql-15", "postgresql-client-15", "tzdata", "util-linux"},
	tags:     []string{"15"},
	furnish: func(root string) error {
		for _, d := range []string{"usr/local/bin", "var/lib/postgresql/data"} {
			if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
				return err
			}
		}
		return os.WriteFile(filepath.Join(root, "usr/local/bin/postgres-entrypoint"), postgresEntrypoint, 0o755)
	},
	config: v1.Config{
		Entrypoint:   []string{"/usr/local/bin/postgres-entrypoint"},
		Env:          []string{"PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		ExposedPorts: map[string]struct{}{"5432/tcp": {}},
		StopSignal:   "SIGINT", // end the sessions, and checkpoint
	},
}
