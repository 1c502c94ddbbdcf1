package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// tokenDueFile in the data directory says that the server has yet to see to the
// admin token: it founds the cluster, or was restored. A start that ends before
// leaves that to the next; others make none, and who has lost it has the socket.
const tokenDueFile = AdminTokenFile + ".due"

// adminToken leaves a token that may do everything to who founds or restores a
// cluster, and revokes what servers made as such before.
func (s *Server) adminToken(ctx context.Context) error {
	due := filepath.Join(s.cfg.DataDir, tokenDueFile)
	if _, err := os.Stat(due); errors.Is(err, fs.ErrNotExist) && !s.cfg.InMemory {
		return nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look whether there is an admin token to be made: %w", err)
	}
	tokens := client.Of(s.system, api.Tokens)
	var all []*api.Token
	if err := s.insist(ctx, func() (err error) { all, _, err = tokens.List(ctx, "", nil); return err }); err != nil {
		return fmt.Errorf("look for admin tokens: %w", err)
	}
	path := filepath.Join(s.cfg.DataDir, AdminTokenFile)
	valid, err := validToken(path, all)
	if err != nil {
		return err
	}
	if valid == "" {
		if valid, err = s.newAdminToken(ctx, path); err != nil {
			return err
		}
	}
	s.log.Info("the admin token is valid", "path", path, "token", valid)
	for _, t := range all {
		if t.Meta.Name == valid || t.Spec.Role != api.RoleAdmin || !strings.HasPrefix(t.Meta.WrittenBy, string(apiserver.RoleSystem)+":") {
			continue // what people made is theirs
		}
		err := s.insist(ctx, func() error { return tokens.Delete(ctx, "", t.Meta.Name, t.Meta.UID) })
		if err != nil && !api.Is(err, api.NotFound) {
			return fmt.Errorf("revoke the admin token of before: %w", err)
		}
		s.log.Info("revoked an admin token that a server made before", "token", t.Meta.Name, "description", t.Spec.Description)
	}
	if err := os.Remove(due); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// validToken is the id of the token in a file, if it is an admin's among all.
func validToken(path string, all []*api.Token) (id string, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look for the admin token: %w", err)
	}
	tok, err := pki.ParseUserToken(string(b))
	if err != nil {
		return "", nil // it is no use to anybody
	}
	for _, t := range all {
		if t.Meta.Name == tok.ID && t.Spec.Hash == tok.Hash() && t.Spec.Role == api.RoleAdmin {
			return tok.ID, nil
		}
	}
	return "", nil
}

// newAdminToken makes a token and writes it to a file.
func (s *Server) newAdminToken(ctx context.Context, path string) (id string, err error) {
	tok := pki.NewUserToken()
	o := &api.Token{Meta: api.Meta{Name: tok.ID}, Spec: api.TokenSpec{
		Role: api.RoleAdmin, Hash: tok.Hash(), Description: AdminTokenFile + " of server " + s.cfg.Name,
	}}
	// The object first: a file whose token nobody knows would be a riddle.
	if err := s.insist(ctx, func() error { _, err := client.Of(s.system, api.Tokens).Create(ctx, o); return err }); err != nil {
		return "", fmt.Errorf("create the admin token: %w", err)
	}
	if err := pki.WriteFile(path, []byte(tok.Reveal()+"\n")); err != nil {
		return "", fmt.Errorf("write the admin token: %w", err)
	}
	return tok.ID, nil
}
