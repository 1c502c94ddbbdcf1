package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// removedFile in the data directory says that the server was removed from the
// cluster, and by whom: the others would not tell it again.
const removedFile = "removed"

// checkRemoved refuses to start on what a server has left that was removed.
func (s *Server) checkRemoved() error {
	b, err := os.ReadFile(filepath.Join(s.cfg.DataDir, removedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	gone := &apiserver.RemovedError{}
	if err := json.Unmarshal(b, gone); err != nil {
		return fmt.Errorf("decode %s: %w", removedFile, err)
	}
	return gone
}

// removed names the way out if err is that this server was removed, and notes
// that for the next start.
func (s *Server) removed(err error) error {
	gone, ok := errors.AsType[*apiserver.RemovedError](err)
	if !ok {
		return err
	}
	b, noted := json.Marshal(gone)
	if noted == nil {
		noted = pki.WriteFile(filepath.Join(s.cfg.DataDir, removedFile), b)
	}
	return errors.Join(fmt.Errorf("%w: to be one again, it joins anew, with nothing in %s and a token of its own, made by: clusterd token create --role server --uses 1 --ttl 1h --for %s", err, s.cfg.DataDir, s.cfg.Name), noted)
}
