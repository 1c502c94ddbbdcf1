package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/server"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
)

func (c *cli) snapshot() *cobra.Command {
	cmd := &cobra.Command{Use: "snapshot", Short: "Save all of the cluster's state, and restore it"}
	cmd.AddCommand(c.snapshotSave(), c.snapshotInspect(), c.snapshotRestore())
	return cmd
}

// passphrase is the first line of a file; empty without one.
func passphrase(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("--passphrase-file: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	if line = strings.TrimSpace(line); line == "" {
		return "", errors.New("--passphrase-file: the file is empty")
	}
	return line, nil
}

func (c *cli) snapshotSave() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "save <file>",
		Short: "Save the cluster's state, as of one moment, in a file",
		Long: `Save the cluster's state, as of one moment, in a file.

With a passphrase the file has all it takes to restore the cluster elsewhere.
Without one its keys can be read only with the keys.json of a server, which is
then to be kept apart from it.`,
		Example: `  clusterd snapshot save nightly.snap --passphrase-file /etc/clusterd/backup`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			phrase, err := passphrase(file)
			if err != nil {
				return err
			}
			body, err := json.Marshal(api.SnapshotRequest{Passphrase: phrase})
			if err != nil {
				return err
			}
			cl, err := c.to.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			resp, err := cl.Do(cmd.Context(), client.Request{Method: http.MethodPost, Path: "/v1/snapshot", Body: body})
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			// Beside the goal first: what is there under its name is whole.
			tmp, err := os.CreateTemp(filepath.Dir(args[0]), ".snapshot-*")
			if err != nil {
				return err
			}
			defer os.Remove(tmp.Name())
			_, err = io.Copy(tmp, resp.Body)
			if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
				return fmt.Errorf("save the snapshot: %w", err)
			}
			head, err := server.OpenSnapshot(tmp.Name(), "")
			if err != nil {
				return err
			}
			if err := os.Rename(tmp.Name(), args[0]); err != nil {
				return err
			}
			fmt.Fprintf(c.out, "saved %s: %s\n", args[0], about(head))
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "passphrase-file", "", "file with the passphrase to wrap the snapshot's keys with")
	return cmd
}

// about says what a snapshot is, in a line.
func about(s server.Snapshot) string {
	wrapped := "without keys"
	if s.Root != nil {
		wrapped = "keys wrapped with a passphrase"
	}
	return fmt.Sprintf("%d keys at revision %d, %.1f MB, taken by %s at %s, %s", s.Keys, s.Revision, float64(s.Size)/1e6, s.Server, s.CreatedAt.Format(time.RFC3339), wrapped)
}

func (c *cli) snapshotInspect() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect <file>",
		Short: "Check a snapshot and say what it is",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			head, err := server.OpenSnapshot(args[0], "")
			if err != nil {
				return err
			}
			fmt.Fprintf(c.out, "%s is whole: %s\n", args[0], about(head))
			return nil
		},
	}
}

// offline are the flags of commands on the data directory of a server that
// does not run.
func offline(cmd *cobra.Command, cfg *server.Config, log *daemon.LogConfig) {
	f := cmd.Flags()
	f.StringVar(&cfg.DataDir, "data-dir", defaultDataDir, "directory that keeps the server's state")
	f.StringVar(&cfg.Name, "name", "", "name of the server; the machine's host name when unset")
	f.StringVar(&cfg.Advertise, "advertise", "", "address others reach the server by; the machine's first when unset")
	f.StringVar(&cfg.Peer, "peer", "", "port, or host:port, that the other servers reach its store by; port "+server.DefaultPeerPort+" when unset")
	log.Register(f)
}

// startOn says how a server is started on a directory that was filled for it.
func startOn(cfg server.Config) string {
	by := "clusterd server --data-dir " + cfg.DataDir
	for _, f := range []struct{ name, value string }{{"name", cfg.Name}, {"advertise", cfg.Advertise}, {"peer", cfg.Peer}} {
		if f.value != "" {
			by += " --" + f.name + " " + f.value
		}
	}
	if os.Geteuid() != 0 || cfg.DataDir != defaultDataDir {
		return "start it with: " + by
	}
	return fmt.Sprintf("start it with: chown -R clusterd: %s && systemctl start clusterd; without its package: %s", cfg.DataDir, by)
}

// defaultDataDir is where the package's server keeps its state.
const defaultDataDir = "/var/lib/clusterd/server"

func (c *cli) snapshotRestore() *cobra.Command {
	var cfg server.RestoreConfig
	var log daemon.LogConfig
	var file string
	cmd := &cobra.Command{
		Use:   "restore <file>",
		Short: "Fill the empty data directory of a server from a snapshot",
		Long: `Fill the empty data directory of a server from a snapshot.

The server that is started on it is the cluster of then, alone; others join it.
It leaves an admin.token in the directory, and revokes those that servers made
before; tokens that people made are valid as they were then.
Nodes find it by its address, keep what runs, and stop what the snapshot does
not know.`,
		Example: `  clusterd snapshot restore nightly.snap --passphrase-file /etc/clusterd/backup --advertise 10.0.0.1
  clusterd server --advertise 10.0.0.1`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) (err error) {
			if cfg.Passphrase, err = passphrase(file); err != nil {
				return err
			}
			if cfg.Log, err = log.New("clusterd", c.err); err != nil {
				return err
			}
			cfg.Snapshot = args[0]
			head, err := server.Restore(cfg)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.out, "restored %s to %s: %s\n%s\n", args[0], cfg.DataDir, about(head), startOn(cfg.Config))
			return nil
		},
	}
	offline(cmd, &cfg.Config, &log)
	cmd.Flags().StringVar(&file, "passphrase-file", "", "file with the passphrase that the snapshot was saved with")
	cmd.Flags().StringVar(&cfg.KeysFile, "keys", "", "keys.json of a server of the cluster, instead of a passphrase")
	return cmd
}

func (c *cli) recover() *cobra.Command {
	var cfg server.Config
	var log daemon.LogConfig
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Go on with one server after most of them are lost for good",
		Long: `Go on with one server after most of them are lost for good.

The server, which must not run, becomes the only one of its cluster, with all it
knows. What the others had acknowledged and this one had not heard is lost, so
take the one that was last up. The others must not be started again: wipe their
data directories and let them join.`,
		Example: `  clusterd recover --data-dir /var/lib/clusterd/server
  clusterd server --data-dir /var/lib/clusterd/server`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if cfg.Log, err = log.New("clusterd", c.err); err != nil {
				return err
			}
			if err := server.Recover(cmd.Context(), cfg); err != nil {
				return err
			}
			fmt.Fprintf(c.out, "%s is the store of a cluster of one\n%s\n", cfg.DataDir, startOn(cfg))
			return nil
		},
	}
	offline(cmd, &cfg, &log)
	return cmd
}
