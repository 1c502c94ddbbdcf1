package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// Etcd is an etcd that the operator runs, and the place of the cluster in it.
type Etcd struct {
	Endpoints []string // https://host:port of its members; http on loopback only
	Prefix    string   // of all keys; /clusterd
	// CAFile verifies it, by default what the machine trusts; CertFile and KeyFile
	// are shown to it.
	CAFile, CertFile, KeyFile string
	// Username and the password in the file are asked for by an etcd that has
	// authentication enabled.
	Username, PasswordFile string
}

// check refuses half of a user.
func (e Etcd) check() error {
	switch {
	case e.Username != "" && e.PasswordFile == "":
		return fmt.Errorf("--etcd-username %s: give its password in a file, with --etcd-password-file", e.Username)
	case e.Username == "" && e.PasswordFile != "":
		return errors.New("--etcd-password-file: say whose password it is, with --etcd-username")
	}
	return nil
}

// password reads it anew each time, so that one that is changed is taken up.
func (e Etcd) password() (string, error) {
	const flag = "--etcd-password-file"
	f, err := os.Open(e.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("%s: %w", flag, err)
	}
	defer f.Close()
	is, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("%s: %w", flag, err)
	}
	if is.Mode().Perm()&0o007 != 0 {
		return "", fmt.Errorf("%s: %s is open to every user of this machine (mode %04o): chmod 600 %[2]s", flag, e.PasswordFile, is.Mode().Perm())
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return "", fmt.Errorf("%s: %w", flag, err)
	}
	password := strings.TrimRight(string(b), "\r\n")
	if password == "" {
		return "", fmt.Errorf("%s: %s is empty: want the password of %s in it", flag, e.PasswordFile, e.Username)
	}
	return password, nil
}

// DefaultEtcdPrefix is the place of a cluster that says nothing else.
const DefaultEtcdPrefix = "/clusterd"

// placeFile in the data directory has the place in the operator's etcd where
// this server's cluster is. A server that was pointed elsewhere by mistake would
// serve an empty cluster to nodes that obey it.
const placeFile = "etcd"

func (s *Server) external() *apiserver.ExternalConfig {
	e := s.cfg.Etcd
	if len(e.Endpoints) == 0 {
		return nil
	}
	return &apiserver.ExternalConfig{
		Endpoints: e.Endpoints, Prefix: e.Prefix, CAFile: e.CAFile, CertFile: e.CertFile, KeyFile: e.KeyFile,
		Username: e.Username, Password: e.password, Name: s.cfg.Name,
	}
}

// place is where the state of the server's cluster is that it was of before;
// empty if it was of none, or keeps the state itself.
func place(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, placeFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("look where the cluster's state is: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// onlyInside refuses what is done to a store that the servers keep themselves.
func onlyInside(dir, way string) error {
	at, err := place(dir)
	if err == nil && at != "" {
		err = fmt.Errorf("the state of %s is in an etcd of its own, below %s: %s", dir, at, way)
	}
	return err
}

// checkPlace refuses a store that is not that of the server's cluster, before
// anything is written. founded says that the store must have a cluster.
func (s *Server) checkPlace(ctx context.Context) (founded bool, err error) {
	e, dir := s.cfg.Etcd, s.cfg.DataDir
	at, err := place(dir)
	if err != nil {
		return false, err
	}
	if len(e.Endpoints) == 0 {
		return false, onlyInside(dir, "start the server with --etcd-endpoints; for another cluster, give another --data-dir")
	}
	if _, err := os.Stat(filepath.Join(dir, storeDir)); err == nil {
		return false, fmt.Errorf("%s has a store of its own, and --etcd-endpoints would begin with none: drop that, or give another --data-dir", dir)
	}
	if at != "" && at != e.Prefix {
		return false, fmt.Errorf("--etcd-prefix %s: the cluster of %s is below %s; for another cluster, give another --data-dir", e.Prefix, dir, at)
	}
	if e.Username != "" {
		if _, err := e.password(); err != nil {
			return false, err
		}
	}
	there, err := apiserver.HasCluster(ctx, *s.external())
	if err != nil {
		return false, fmt.Errorf("--etcd-endpoints: %w", err)
	}
	_, nokeys := os.Stat(filepath.Join(dir, keysFile))
	switch {
	case at != "" && !there:
		return false, fmt.Errorf("the etcd at %s has no cluster below %s, and that of %s was there: is it another etcd, or must its data be restored first?", strings.Join(e.Endpoints, ", "), e.Prefix, dir)
	case at != "":
		return true, nil
	case len(s.cfg.Join) > 0 && !there:
		return false, fmt.Errorf("--join: the etcd at %s has no cluster below %s: is it the one that the other servers use?", strings.Join(e.Endpoints, ", "), e.Prefix)
	case len(s.cfg.Join) == 0 && there && nokeys != nil:
		return false, fmt.Errorf("the etcd has a cluster below %s already: to be one more server of it, give --join with one that it has, and a token; for a new cluster, give another --etcd-prefix", e.Prefix)
	}
	return there, nil
}

// keepPlace notes where the cluster's state is, once it is there.
func (s *Server) keepPlace() error {
	if len(s.cfg.Etcd.Endpoints) == 0 {
		return nil
	}
	return pki.WriteFile(filepath.Join(s.cfg.DataDir, placeFile), []byte(s.cfg.Etcd.Prefix+"\n"))
}
