/*-------------------------------------------------------------------------
 *
 * account.h
 *	  Accounts, and who is a member of which.
 *
 *	  An account is a canonical identifier of a kind whose entity is account.
 *	  Its number comes from the counter that numbers the nodes of the graph, so
 *	  that no number means both an account and a profile.  doc/accounts.md says
 *	  what a membership is.
 *
 * IDENTIFICATION
 *	  src/identity/account.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_ACCOUNT_H
#define CDP_ACCOUNT_H

#include "identity/identity.h"

typedef struct CdpMembership
{
	int64		account_id;
	int64		profile_id;
	TimestampTz named_at;		/* the latest evidence of it */
} CdpMembership;

/*
 * SQL: the latest evidence of a node about an account, up to an instant; all
 * NULL when there is none.
 */
#define CDP_LATEST_EVIDENCE(node, account, at) \
	" LEFT JOIN LATERAL (SELECT e.at, e.tie, e.leaves FROM cdp.account_evidence e" \
	" WHERE e.node_id = " node " AND e.account_id = " account " AND e.at <= " at \
	" ORDER BY e.at DESC, e.tie DESC LIMIT 1) x ON true"

/*
 * SQL: the accounts that anything is said of, as of an instant: the latest word of
 * entries, or that addresses have the domain.  From the profile to its nodes to
 * their accounts, never the other way round: without statistics the planner takes
 * profiles for so large that it would begin with all nodes of all accounts.
 */
#define CDP_SAID(profile, at) \
	"(SELECT v.*, bool_or(NOT v.leaves) OVER () AS explicit FROM" \
	" (SELECT DISTINCT ON (n.account_id) n.account_id, COALESCE(x.at, i.first_seen) AS at," \
	" x.tie, x.leaves FROM cdp.identities i CROSS JOIN LATERAL (SELECT m.account_id, m.node_id," \
	" m.by_domain FROM cdp.account_nodes m WHERE m.node_id = i.node_id OFFSET 0) n" \
	CDP_LATEST_EVIDENCE("n.node_id", "n.account_id", at) \
	" WHERE i.profile_id = " profile \
	" AND (x.at IS NOT NULL OR (n.by_domain AND i.first_seen <= " at "))" \
	" ORDER BY n.account_id, x.at DESC NULLS LAST, x.tie DESC NULLS LAST," \
	" i.first_seen DESC) v)"

/*
 * SQL: the accounts (account_id, at, tie) that a profile is a member of, as of
 * an instant.  What entries say wins: those that follow from its addresses of
 * e-mail (at: since it has the newest of them) count where no entry said
 * anything about the account, and where it is in no other by what entries say.
 */
#define CDP_MEMBERSHIPS(profile, at) \
	"(SELECT w.account_id, w.at, w.tie FROM " CDP_SAID(profile, at) " w" \
	" WHERE " CDP_SAID_MEMBER("w") ")"

/* SQL: is the profile a member by what is said? */
#define CDP_SAID_MEMBER(said) "COALESCE(NOT " said ".leaves, " said ".explicit IS NOT TRUE)"

/*
 * These run SQL: inside SPI_connect and CdpBecomeOwner.  Results are palloc'd
 * in the current context.  at: as of that instant; DT_NOEND: now, which is
 * after all evidence that there is.
 */

/*
 * The accounts that these profiles are members of: by profile, in each the
 * primary account (the one that was named last; of those that one entry names
 * the first by identifier) first.
 */
extern CdpMembership *CdpAccountsOfProfiles(const int64 *profiles, int nprofiles,
											TimestampTz at, int *n);
/* The members of these accounts: by account, then by profile. */
extern CdpMembership *CdpMembersOfAccounts(const int64 *accounts, int naccounts,
										   TimestampTz at, int *n);

/* The identifiers of the accounts, in the order of the memberships. */
extern CdpIdentifier **CdpAccountNames(const CdpMembership *memberships, int n);

/* The account that an identifier names; 0 when it is unknown. */
extern int64 CdpAccountOfIdentifier(int64 generation, const CdpIdentifier *raw);
/* Is there any account?  Uses the active snapshot, needs no SPI. */
extern bool CdpAccountsExist(void);
/*
 * Fill in the accounts that an entry names, for who reads it without the graph.
 */
extern void CdpEntryAccounts(CdpKindSet *kinds, CdpEntry *entry);
/*
 * What a text that names an account means: kind:value when the kind is one of
 * accounts, else a value of the kind that is given.  NULL: it is blocked, or
 * not normalisable.
 */
extern CdpIdentifier *CdpAccountIdentifier(CdpKindSet *kinds, const char *text, int len,
										   const char *kind, int kindlen);

#endif							/* CDP_ACCOUNT_H */
