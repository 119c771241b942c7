/*-------------------------------------------------------------------------
 *
 * accounts.h
 *	  Accounts in a batch.
 *
 * IDENTIFICATION
 *	  src/apply/accounts.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_APPLY_ACCOUNTS_H
#define CDP_APPLY_ACCOUNTS_H

#include "apply/batch.h"
#include "identity/account.h"
#include "statement.h"

/* An account that the batch has to do with. */
typedef struct CdpAccount
{
	int64 id; /* hash key of by_id */
	CdpIdentifier *identifier;
	bool is_new; /* has no row yet */
	bool gone; /* no entry names it any more: row to be deleted */
	bool lost; /* evidence was withdrawn: ask for its times anew */
	bool seen_changed;
	TimestampTz first_seen;
	TimestampTz last_seen;
	bool loaded; /* what follows is as the row has it */
	struct varlena *state;
	struct varlena *parent;
	int nsegments;
	int32 *segments;
	TimestampTz timer; /* DT_NOEND: none */

	/* what the batch makes of it */
	bool made; /* the batch has inserted its row */
	bool touched; /* to be evaluated */
	CdpCause cause;
	bool nobodys; /* entries that are nobody's are to be folded anew */
	bool rebuild; /* something was taken away: combine its nodes anew */
	CdpNodeAcc *acc; /* of state; NULL: not opened */
	bool folded; /* acc differs from state */
	struct varlena *new_state;
} CdpAccount;

/* The same by identifier. */
typedef struct CdpAccountName
{
	CdpIdentifier *identifier; /* hash key, compared by contents */
	CdpAccount *account; /* NULL: asked for, unknown */
} CdpAccountName;

/* Accounts of a batch; lives as long as it. */
typedef struct CdpAccountSet
{
	CdpBatch *batch;
	CdpTraitSet *traits;
	MemoryContext context;
	bool computed; /* some trait is computed from entries */
	HTAB *names;
	HTAB *by_id; /* id -> CdpAccount */
	HTAB *refold; /* nodes whose entries are to be folded anew */
	HTAB *standings; /* CdpStanding by node; what has been asked */
} CdpAccountSet;

/* An entry that names accounts, and what it says of them. */
typedef struct CdpNaming
{
	CdpEntry *entry;
	bool gone; /* it says so no more */
} CdpNaming;

/* accounts.c */
/* Those that entries name; who says so now makes what is not known. */
extern void CdpAccountsFind(CdpAccountSet *set, CdpNaming *namings, int n);
extern CdpAccountSet *CdpAccountSetMake(CdpBatch *batch);
extern CdpAccount *CdpAccountFind(CdpAccountSet *set, CdpIdentifier *identifier);
/* By number; rows that are not at hand are loaded, all columns. */
extern void CdpAccountsLoad(CdpAccountSet *set, const int64 *ids, int n);
extern CdpAccount *CdpAccountById(CdpAccountSet *set, int64 id);

/* Accounts that may have lost all that is known of them; for a definition. */
extern void CdpAccountsRenew(CdpBatch *batch, const int64 *ids, int n);

/* account_domains.c: accounts by the domains of addresses of e-mail */
extern bool CdpDomainsOn(int64 generation);
/* The account that the domain of an address means; NULL: none. */
extern CdpIdentifier *CdpDomainAccount(CdpKindSet *kinds, int64 generation,
									   const CdpIdentifier *address);
extern void CdpAccountsDomains(CdpAccountSet *set);
/* Pairs of account and node that are no more, or now, by a domain. */
extern void CdpDomainsWrite(int64 *from, int64 *from_nodes, int nfrom, int64 *to, int64 *to_nodes,
							int nto);
/* The setting has changed: marks all nodes; returns the accounts concerned. */
extern int64 *CdpDomainsMark(CdpBatch *batch, int *n);

/* domain_change.c: the same beside what comes */
/* Nodes with numbers behind position go by what was so far, up to this one. */
typedef struct CdpDomainChange
{
	int64 position;
	int64 upto;
} CdpDomainChange;

/* Is a change on its way?  Without one, all nodes are reached. */
extern bool CdpDomainsChanging(CdpDomainChange *change);
/* Have the applier make it: all nodes below next_node. */
extern void CdpDomainsAsk(int64 next_node);
/* All nodes go by the settings. */
extern void CdpDomainsFinish(void);
/* What these addresses mean while a change is on its way, asked of the tables at once. */
extern HTAB *CdpDomainsSoFar(const CdpDomainChange *change, CdpIdentifier **addresses, int n);
/*
 * CdpDomainAccount(), or what the address has meant so far.  known: of
 * CdpDomainsSoFar(), or NULL; an address that it has not is asked for.
 */
extern CdpIdentifier *CdpDomainAccountNow(CdpKindSet *kinds, int64 generation,
										  const CdpDomainChange *change, HTAB *known,
										  CdpIdentifier *address);
/* What CdpDomainsStep() has found is written, as the batch that it is for. */
extern void CdpDomainsExchange(CdpAccountSet *set);

/* account_late.c: fills refold */
extern void CdpAccountsLate(CdpAccountSet *set, CdpNaming *namings, int n);
extern void CdpAccountsLateDomains(CdpAccountSet *set, const int64 *profiles,
								   const TimestampTz *since, int n, const int64 *lost,
								   int nlost);
extern void CdpAccountsMoved(CdpAccountSet *set);

/* account_credits.c */
/* Of which accounts the profile of a node is a member. */
typedef struct CdpStanding
{
	int64 node; /* hash key */
	TimestampTz since; /* at this instant and at all later ones */
	int n;
	int64 *accounts;
} CdpStanding;

/* Ask about these nodes; those that have been asked about are known. */
extern void CdpStandingsAsk(CdpAccountSet *set, const int64 *nodes, int n);
extern CdpStanding *CdpStandingOf(CdpAccountSet *set, int64 node);
/* The evidence has changed. */
extern void CdpStandingsForget(CdpAccountSet *set);

/* An entry and an account that it counts for. */
typedef struct CdpCredit
{
	int entry;
	int64 account;
} CdpCredit;

/* Entries by owners (int8[]), in front of them the owner; nobody's, by accounts: 0. */
extern CdpStatement CdpOwnedEntries;
extern CdpStatement CdpNobodysEntries;
extern CdpEntry *CdpNobodysPart(CdpAccountSet *set, CdpEntry *entries, int *n);
extern CdpCredit *CdpCreditsFind(CdpAccountSet *set, CdpEntry *entries, int n,
								 const CdpContributions *contributions, int *ncredits);
extern int CdpCreditsOfAccounts(CdpCredit *found, int nfound, const int64 *accounts,
								int naccounts);
extern int CdpCreditsContributing(CdpCredit *found, int nfound,
								  const CdpContributions *contributions);

/*
 * Some of those entries at a time: what they contribute, and to which accounts.
 * What is nobody's counts for the accounts that it was asked by only.
 */
typedef struct CdpCreditScan
{
	/* to be set before it begins */
	CdpBatch *batch;
	CdpAccountSet *shared; /* NULL: a set for each chunk */
	Bitmapset *only; /* traits (indexes); NULL: all */

	/* the chunk: until the next one, like the memory context that is current then */
	CdpAccountSet *set;
	CdpEntry *entries;
	CdpContributions *contributions;
	CdpCredit *found;
	int nfound;

	int64 total; /* entries that have been read */

	/* its own */
	CdpStatement *statement;
	const int64 *ids; /* in order */
	int nids;
	Portal portal;
	MemoryContext context;
	MemoryContext chunk;
} CdpCreditScan;

extern void CdpCreditScanBegin(CdpCreditScan *scan, CdpStatement *statement, const int64 *ids,
							   int n);
extern bool CdpCreditScanNext(CdpCreditScan *scan);
extern void CdpCreditScanEnd(CdpCreditScan *scan);

/* account_fold.c */
extern void CdpAccountsFold(CdpAccountSet *set);
extern void CdpAccountsRefoldAll(CdpBatch *batch);
/*
 * Fold history into these traits (indexes), which have nothing of it yet: what
 * these nodes own; or, nobodys, the entries that are nobody's of these accounts.
 * Returns how many entries.
 */
extern int64 CdpAccountsBuild(CdpBatch *batch, Bitmapset *only, int64 *ids, int n, bool nobodys);

/* account_evaluate.c */
/* The account that its declared trait parent means; NULL: none. */
extern CdpIdentifier *CdpAccountParent(CdpKindSet *kinds, CdpAccountRow *row);
extern void CdpAccountsEvaluate(CdpAccountSet *set);
extern void CdpAccountsEvaluateAll(CdpBatch *batch);

#endif /* CDP_APPLY_ACCOUNTS_H */
