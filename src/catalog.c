/*-------------------------------------------------------------------------
 *
 * catalog.c
 *	  The extension's place in the catalogs: its schema, owner and relations,
 *	  the switch to its owner, the applier's lock and the generation number.
 *
 *	  OIDs are looked up by name every time: the system caches make that
 *	  cheap, and nothing can go stale when the extension is dropped and made
 *	  again in the same session.
 *
 * IDENTIFICATION
 *	  src/catalog.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "cdp.h"

/*
 * Tag of the applier's lock.  Advisory locks of users have field4 = 1 or 2,
 * so any other value is out of their reach.
 */
#define CDP_LOCK_CLASS		0xCD01

Oid
CdpSchemaOid(void)
{
	return get_namespace_oid("cdp", false);
}

Oid
CdpRelationOid(const char *relname)
{
	Oid			relid = get_relname_relid(relname, CdpSchemaOid());

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"cdp.%s\" does not exist", relname),
				 errhint("Run CREATE EXTENSION cdp.")));
	return relid;
}

Oid
CdpTypeOid(const char *typname)
{
	Oid			typid = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
										CStringGetDatum(typname),
										ObjectIdGetDatum(CdpSchemaOid()));

	if (!OidIsValid(typid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("type \"cdp.%s\" does not exist", typname),
				 errhint("Run CREATE EXTENSION cdp.")));
	return typid;
}

/*
 * The owner of the extension owns its schema: the install script creates the
 * schema with a bare CREATE SCHEMA.
 */
Oid
CdpExtensionOwner(void)
{
	HeapTuple	tuple;
	Oid			owner;

	tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(CdpSchemaOid()));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for schema cdp");
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return owner;
}

void
CdpBecomeOwner(CdpUserContext *saved)
{
	GetUserIdAndSecContext(&saved->userid, &saved->sec_context);
	SetUserIdAndSecContext(CdpExtensionOwner(),
						   saved->sec_context | SECURITY_LOCAL_USERID_CHANGE);
	saved->nest_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, cdp, pg_temp",
							 PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

void
CdpRestoreUser(const CdpUserContext *saved)
{
	AtEOXact_GUC(false, saved->nest_level);
	SetUserIdAndSecContext(saved->userid, saved->sec_context);
}

static void
applier_lock_tag(LOCKTAG *tag)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, 0, 0, CDP_LOCK_CLASS);
}

void
CdpApplierLock(void)
{
	LOCKTAG		tag;

	applier_lock_tag(&tag);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

bool
CdpApplierLockConditional(void)
{
	LOCKTAG		tag;

	applier_lock_tag(&tag);
	return LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

/*
 * Definitions have changed: whoever applies next reloads them.  The caller
 * holds the applier's lock, so the row is not contended.
 */
void
CdpGenerationBump(void)
{
	CdpUserContext saved;

	CdpApplierLock();
	CdpBecomeOwner(&saved);
	SPI_connect();
	/*
	 * Numbers come from the clock so that an extension that is dropped and
	 * made again does not reuse one that some backend has cached.
	 */
	if (SPI_execute("INSERT INTO cdp.applier AS a (generation)"
					" VALUES (extract(epoch FROM clock_timestamp()) * 1000000)"
					" ON CONFLICT (one) DO UPDATE SET generation ="
					" greatest(a.generation + 1, excluded.generation)",
					false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not bump the generation");
	SPI_finish();
	CdpRestoreUser(&saved);
}

PG_FUNCTION_INFO_V1(cdp_definitions_lock);
PG_FUNCTION_INFO_V1(cdp_definitions_changed);

/*
 * cdp.definitions_lock() returns void: CdpApplierLock for functions in SQL
 */
Datum
cdp_definitions_lock(PG_FUNCTION_ARGS)
{
	CdpApplierLock();
	PG_RETURN_VOID();
}

/*
 * cdp.definitions_changed() returns void: CdpGenerationBump for them
 */
Datum
cdp_definitions_changed(PG_FUNCTION_ARGS)
{
	CdpGenerationBump();
	PG_RETURN_VOID();
}
