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

/* An account that the batch has to do with. */
typedef struct CdpAccount
{
	int64		id;				/* hash key of by_id */
	CdpIdentifier *identifier;
	bool		is_new;			/* has no row yet */
	bool		gone;			/* no entry names it any more: row to be deleted */
	bool		lost;			/* evidence was withdrawn: ask for its times anew */
	bool		seen_changed;
	TimestampTz first_seen;
	TimestampTz last_seen;
} CdpAccount;

/* The same by identifier. */
typedef struct CdpAccountName
{
	CdpIdentifier *identifier;	/* hash key, compared by contents */
	CdpAccount *account;		/* NULL: asked for, unknown */
} CdpAccountName;

/* Accounts of a batch; lives as long as it. */
typedef struct CdpAccountSet
{
	CdpBatch   *batch;
	HTAB	   *names;
	HTAB	   *by_id;			/* id -> CdpAccount */
} CdpAccountSet;

/* An entry that names accounts, and what it says of them. */
typedef struct CdpNaming
{
	CdpEntry   *entry;
	bool		gone;			/* it says so no more */
} CdpNaming;

/* accounts.c */
extern CdpAccount *CdpAccountFind(CdpAccountSet *set, CdpIdentifier *identifier);

#endif							/* CDP_APPLY_ACCOUNTS_H */
