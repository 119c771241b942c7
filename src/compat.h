/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  What differs between the versions of PostgreSQL that we build on.
 *	  Each wrapper names the version that changed.
 *
 * IDENTIFICATION
 *	  src/compat.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_COMPAT_H
#define CDP_COMPAT_H

#include "utils/datetime.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"				/* 16 took VARDATA_ANY and others out of postgres.h */
#endif

#if PG_VERSION_NUM < 150000
#error "cdp needs PostgreSQL 15 or later"
#endif

/* 16 added the extra argument for errors (soft errors in the date parser). */
#if PG_VERSION_NUM >= 160000
static inline int
CdpDecodeDateTime(char **field, int *ftype, int nf, int *dtype,
				  struct pg_tm *tm, fsec_t *fsec, int *tzp)
{
	DateTimeErrorExtra extra;

	return DecodeDateTime(field, ftype, nf, dtype, tm, fsec, tzp, &extra);
}
#else
#define CdpDecodeDateTime DecodeDateTime
#endif

/* 16 added soft errors of input functions; before, they are plain errors. */
#if PG_VERSION_NUM < 160000
#define ereturn(escontext, dummy_value, ...) \
	do { \
		(void) (escontext); \
		ereport(ERROR, __VA_ARGS__); \
	} while (0)
#endif

/* 16 renamed the place of a relation's files. */
#if PG_VERSION_NUM >= 160000
#define CdpRelationLocator(rel) ((rel)->rd_locator)
#else
#define CdpRelationLocator(rel) ((rel)->rd_node)
#endif

/* 16 has one function for the rights on all kinds of objects. */
#if PG_VERSION_NUM >= 160000
#define CdpMayExecute(function, role) \
	(object_aclcheck(ProcedureRelationId, function, role, ACL_EXECUTE) == ACLCHECK_OK)
#else
#define CdpMayExecute(function, role) \
	(pg_proc_aclcheck(function, role, ACL_EXECUTE) == ACLCHECK_OK)
#endif

/* 17 added the choice to flush the WAL at once. */
#if PG_VERSION_NUM >= 170000
#define CdpLogLogicalMessage(prefix, message, size) \
	LogLogicalMessage(prefix, message, size, true, false)
#else
#define CdpLogLogicalMessage(prefix, message, size) \
	LogLogicalMessage(prefix, message, size, true)
#endif

/* 18 replaced isBackgroundWorker by its opposite. */
#if PG_VERSION_NUM >= 180000
#define CdpProcIsBackgroundWorker(proc) (!(proc)->isRegularBackend)
#else
#define CdpProcIsBackgroundWorker(proc) ((proc)->isBackgroundWorker)
#endif

/* 17 put the local transaction id into a struct. */
#if PG_VERSION_NUM >= 170000
#define CdpMyLxid (MyProc->vxid.lxid)
#else
#define CdpMyLxid (MyProc->lxid)
#endif

/* 16 merged the checks of ownership into one. */
#if PG_VERSION_NUM >= 160000
#define CdpDatabaseOwnercheck(dboid, roleid) \
	object_ownercheck(DatabaseRelationId, dboid, roleid)
#else
#define CdpDatabaseOwnercheck(dboid, roleid) pg_database_ownercheck(dboid, roleid)
#endif

/*
 * 16 took the memory of settings, extra data of check hooks included, into a
 * memory context: what malloc gave can no longer be freed by the server.
 */
#if PG_VERSION_NUM >= 160000
#define CdpGucMalloc(size) guc_malloc(LOG, size)
#define CdpGucStrdup(string) guc_strdup(LOG, string)
#define CdpGucFree(pointer) guc_free(pointer)
#else
#define CdpGucMalloc(size) malloc(size)
#define CdpGucStrdup(string) strdup(string)
#define CdpGucFree(pointer) free(pointer)
#endif

/* 16 replaced membership by the right to SET ROLE. */
#if PG_VERSION_NUM >= 160000
#define CdpCheckCanSetRole(member, role) check_can_set_role(member, role)
#else
#define CdpCheckCanSetRole(member, role) check_is_member_of_role(member, role)
#endif

/* 18 asks whether ANALYZE waits, and looks beyond btrees. */
#if PG_VERSION_NUM >= 180000
#define CdpVacuumDelayPoint() vacuum_delay_point(false)
#define CdpBtreeInterpretation(operator) get_op_index_interpretation(operator)
#else
#define CdpVacuumDelayPoint() vacuum_delay_point()
#define CdpBtreeInterpretation(operator) get_op_btree_interpretation(operator)
#endif

/* 16 renamed what says where a file is. */
#if PG_VERSION_NUM >= 160000
#define CdpSmgrLocator(smgr) ((smgr)->smgr_rlocator.locator)
#else
#define CdpSmgrLocator(smgr) ((smgr)->smgr_rnode.node)
#endif

/* 18 put this before the declaration. */
#if PG_VERSION_NUM < 180000
#define pg_noreturn pg_attribute_noreturn()
#endif

/* 18 added the argument for instrumentation. */
#if PG_VERSION_NUM >= 180000
#define CdpIndexBeginScan(heap, index, snapshot, nkeys, norderbys) \
	index_beginscan(heap, index, snapshot, NULL, nkeys, norderbys)
#else
#define CdpIndexBeginScan index_beginscan
#endif

/* 16 replaced "missing_ok" of parseTypeString by an error-saving context. */
#if PG_VERSION_NUM >= 160000
#define CdpParseType(name, typid, typmod) \
	((void) parseTypeString((name), (typid), (typmod), NULL))
#else
#define CdpParseType(name, typid, typmod) \
	parseTypeString((name), (typid), (typmod), false)
#endif

/* 17 asks whether a stronger lock will do. */
#if PG_VERSION_NUM >= 170000
#define CdpLockHeldByMe(tag, mode) LockHeldByMe((tag), (mode), false)
#else
#define CdpLockHeldByMe(tag, mode) LockHeldByMe((tag), (mode))
#endif

#endif							/* CDP_COMPAT_H */
